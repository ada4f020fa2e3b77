"""robust.json from attack tables: what is refused, and what stands beside the number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kit.attack_tables import ROWS, assessed, attack, model, plain, write
from kit.scored import Workspace
from palimpsest.data.attack_split import Fact, attack_split
from palimpsest.errors import UserError
from palimpsest.io.atomic import is_private
from palimpsest.io.sealed import write_document
from palimpsest.metrics.robust import NO_CONTROL
from palimpsest.metrics.robust_schema import robust_schema
from palimpsest.metrics.schema import eval_schema

FULL, NONE = "1" * ROWS, "0" * ROWS
PREFILL = {
    "sku": {"a": "1" * 12 + "0" * 12, "b": "1" * 6 + "0" * 18},
    "original": {"a": FULL, "b": FULL},
    "retrained": {"a": "0" * 22 + "11", "b": NONE},
}


def test_what_stands_in_robust_json(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    found = assessed(tmp_path)
    assert found["recoverable"]["value"] == pytest.approx((12 - 2) / 24)
    assert found["worst"] == "prefill"
    assert found["says"] == "worst of 1 attack"
    assert found["not_tested"] == {"lens": "not run"}
    block = found["attacks"]["prefill"]
    assert block["chosen"]["method"] == [["a", "a"]]
    assert block["rates"] == {
        "method": 0.5,
        "original": 1.0,
        "control": pytest.approx(2 / 24, abs=1e-9),
    }
    assert block["damage"]["method"]["retain_recall"] == 0.5
    assert block["damage"]["method"]["retain_degenerate"] == 1
    assert block["settings"]["b"]["method"]["rate"] == 0.25
    assert found["unattacked"]["original"]["rate"] == 1
    first = found["examples"][0]
    assert (first["id"], first["attack"], first["setting"]) == ("row00", "prefill", "a")
    assert (first["text"], first["asked"]) == ("prefill a 0 1", "ask  0 0")
    assert first["control"] == "prefill a 0 0"
    assert len(found["examples"]) == 3
    written = json.loads((tmp_path / "sku" / "robust.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, robust_schema())
    assert is_private(tmp_path / "sku" / "robust.json")


def test_of_a_tuned_method_the_rows_that_did_not_choose_count(tmp_path: Path) -> None:
    """The attack brings back the first half of the rows, and these chose the settings."""
    prefill = {
        "sku": {"a": "1" * (ROWS // 2) + "0" * (ROWS // 2)},
        "original": {"a": FULL},
        "retrained": {"a": NONE},
    }
    write(tmp_path, ask=plain(), prefill=prefill)
    report = {"forget": [f"row{i:02}" for i in range(ROWS // 2, ROWS)]}
    write_document(tmp_path / "tune.json", {"report": report})
    whole = assessed(tmp_path)
    found = assessed(tmp_path, tuning={"report": str(tmp_path / "tune.json")})
    assert whole["recoverable"]["value"] == pytest.approx(0.5)
    assert "all_rows" not in whole
    assert found["recoverable"]["value"] == 0.0
    assert found["all_rows"]["recoverable"] == whole["recoverable"]


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_rows_that_all_belong_together_have_rates(tmp_path: Path, rows: int) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    members = [Fact(f"row{i:02}", "one person", [], [f"Text {i}"]) for i in range(rows)]
    write_document(tmp_path / "attacks" / "split.json", attack_split(members))
    found = assessed(tmp_path)
    jsonschema.validate(found | {"seal": "palimpsest-sha256:" + "0" * 64}, robust_schema())
    # One group says as little as one row, so the number is null; what was measured stands there.
    assert (found["recoverable"]["value"], found["recoverable"]["reason"] is None) == (None, False)
    assert found["attacks"]["prefill"]["rates"]["original"] == 1


def test_an_attack_that_fits_no_row_is_not_tested(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    alone = assessed(tmp_path)
    for run in ("sku", "original", "retrained"):
        folder = tmp_path / run / "seed-0"
        attack(folder, "choice", {}, why="no row has wrong answers")
    found = assessed(tmp_path)
    assert found["not_tested"] == {"lens": "not run", "choice": "no row has wrong answers"}
    assert found["recoverable"] == alone["recoverable"]
    assert "choice" not in found["attacks"]
    assert "choice" not in found["tested"]


def test_a_model_without_numbers_has_no_value_and_says_why(tmp_path: Path) -> None:
    why = "logits are not finite (NaN or infinity): nothing can be read in them"
    write(tmp_path, ask=plain(), prefill=PREFILL)
    attack(tmp_path / "sku" / "seed-0", "ask", {}, why=why)
    found = assessed(tmp_path)
    assert (found["recoverable"]["value"], found["recoverable"]["reason"]) == (None, why)
    assert found["not_tested"]["ask"] == why
    jsonschema.validate(found | {"seal": "palimpsest-sha256:" + "0" * 64}, robust_schema())


def test_answers_that_were_measured_do_not_speak_for_a_model_without_numbers(
    tmp_path: Path,
) -> None:
    """It says nothing when it is asked, which is no forgetting."""
    why = "states are not finite (NaN or infinity): nothing can be read in them"
    write(tmp_path, ask=plain(), prefill=PREFILL)
    assert assessed(tmp_path, attacks=["ask"])["recoverable"]["value"] == 0
    attack(tmp_path / "sku" / "seed-0", "prefill", {}, why=why, finite=False)
    found = assessed(tmp_path)
    assert (found["recoverable"]["value"], found["recoverable"]["reason"]) == (None, why)
    assert found["not_tested"] == {"lens": "not run", "prefill": why}


def test_a_control_without_numbers_is_named(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    attack(tmp_path / "retrained" / "seed-0", "prefill", {}, why="states are not finite")
    block = assessed(tmp_path)["attacks"]["prefill"]
    assert (block["weak"], block["weak_why"]) == (True, "control: states are not finite")
    assert block["recovered"]["value"] is None


def test_what_lies_beside_is_told_of_every_seed(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), files={run: {"first": FULL} for run in PREFILL})
    shutil.copytree(tmp_path / "sku" / "seed-0", tmp_path / "sku" / "seed-1")
    for seed in (0, 1):
        beside = {"folders": [{"path": "subject"}, {"path": f"sku/seed-{seed}/acquired"}]}
        run = tmp_path / "sku" / f"seed-{seed}"
        attack(run, "files", {"first": FULL}, {"beside": beside})
    found = assessed(tmp_path, seeds=[0, 1])
    paths = [one["path"] for one in found["form"]["files"]["about"]["beside"]["folders"]]
    assert paths == ["subject", "sku/seed-0/acquired", "sku/seed-1/acquired"]


def test_values_before_the_attack_are_those_of_the_table(tmp_path: Path) -> None:
    write(tmp_path, ask=plain("1" * 5 + "0" * 19), prefill=PREFILL)
    found = assessed(tmp_path)
    assert found["unattacked"]["method"]["rate"] == pytest.approx(5 / 24)
    assert found["attacks"]["ask"]["rates"]["method"] == found["unattacked"]["method"]["rate"]


def test_the_references_themselves(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    original, retrained = (assessed(tmp_path, name) for name in ("original", "retrained"))
    assert original["attacks"]["ask"]["recovered"]["value"] == 1
    assert retrained["recoverable"]["value"] == 0
    assert {block["gap"]["value"] for block in retrained["attacks"].values()} == {0}


def test_original_as_its_own_control_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ask=plain())
    with pytest.raises(UserError, match="a model cannot be its own control"):
        assessed(tmp_path, control="original")
    # The same weights under another name.
    model(tmp_path / "retrained" / "seed-0", "original")
    with pytest.raises(UserError, match=r"original/seed-0/model are the same files.*retrained"):
        assessed(tmp_path)
    model(tmp_path / "retrained" / "seed-0", "sku")
    with pytest.raises(UserError, match="sku/seed-0/model are the same files"):
        assessed(tmp_path)


def test_without_a_control_raw_rates_remain(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    shutil.rmtree(tmp_path / "retrained")
    found = assessed(tmp_path, control=None)
    assert (found["recoverable"]["value"], found["recoverable"]["reason"]) == (None, NO_CONTROL)
    assert found["attacks"]["prefill"]["rates"]["method"] == 0.5
    assert found["attacks"]["prefill"]["settings"]["a"]["original"]["rate"] == 1
    assert found["examples"] == []
    jsonschema.validate(found | {"seal": "palimpsest-sha256:" + "0" * 64}, robust_schema())


def test_other_settings_are_no_comparison(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    attack(tmp_path / "original" / "seed-0", "prefill", PREFILL["original"], slice="other")
    with pytest.raises(UserError, match="'prefill' was run with different settings"):
        assessed(tmp_path)


def test_two_methods_with_equal_weights_have_equal_hashes(tmp_path: Path) -> None:
    write(tmp_path, ask=plain())
    one = assessed(tmp_path)["weights"]
    assert one == assessed(tmp_path)["weights"] != assessed(tmp_path, "original")["weights"]


def test_a_search_with_one_rate_ends_at_its_edge_and_is_weak(tmp_path: Path) -> None:
    facts = {"rate 1e-6": {"rate": 1e-6}}
    write(tmp_path, ask=plain())
    for run, values in plain().items():
        values = {"rate 1e-6": NONE if run == "original" else values[""]}
        attack(tmp_path / run / "seed-0", "relearn", values, facts)
    block = assessed(tmp_path)["attacks"]["relearn"]
    assert block["rate_at_edge"]
    assert block["power"]["value"] == 0
    assert block["weak"]


def test_a_rate_between_others_is_at_no_edge(tmp_path: Path) -> None:
    facts = {f"rate {rate}": {"rate": rate} for rate in (1, 2, 3)}
    write(tmp_path, ask=plain())
    for run in plain():
        share = {"sku": (2, 6, 4), "original": (24, 24, 24), "retrained": (0, 0, 0)}[run]
        values = {
            name: ("1" * count).ljust(ROWS, "0") for name, count in zip(facts, share, strict=True)
        }
        attack(tmp_path / run / "seed-0", "relearn", values, facts)
    block = assessed(tmp_path)["attacks"]["relearn"]
    assert block["rate_at_edge"] is False
    assert assessed(tmp_path)["attacks"]["ask"]["rate_at_edge"] is None


def cells(first: float, last: float) -> dict[str, Any]:
    """Facts of a training whose own rows cost so much at first, and at last."""
    cell = {"loss_first": first, "loss": last}
    return {"a": {"rate": 1e-6, "step": 48, "cells": {"fold-0.seed-0": cell}}}


@pytest.mark.parametrize(
    ("first", "last", "weak"), [(5.0, 4.9, True), (5.0, 1.0, False), (0.3, 0.3, False)]
)
def test_a_training_that_taught_its_rows_nothing_is_weak(
    tmp_path: Path, first: float, last: float, weak: bool
) -> None:
    """`original` answers before it, so that power alone would not show this."""
    write(tmp_path, ask=plain())
    for run, values in (("sku", NONE), ("original", FULL), ("retrained", NONE)):
        attack(tmp_path / run / "seed-0", "relearn", {"a": values}, cells(first, last))
    block = assessed(tmp_path)["attacks"]["relearn"]
    assert block["power"]["value"] == 1
    assert block["weak"] is weak
    assert ("hardly learned" in (block["weak_why"] or "")) is weak


def test_a_training_that_diverged_at_some_rates_is_not_withstood(tmp_path: Path) -> None:
    write(tmp_path, ask=plain())
    settings = {"b": {"rate": 1e-2, "step": 48, "diverged": True}}
    for run, values in (("sku", NONE), ("original", FULL), ("retrained", NONE)):
        attack(tmp_path / run / "seed-0", "relearn", {"a": values}, settings)
    block = assessed(tmp_path)["attacks"]["relearn"]
    assert block["weak_why"] == "its training diverged at 1 of its settings"


def test_a_training_that_diverged_is_named(tmp_path: Path) -> None:
    write(tmp_path, ask=plain())
    facts = {"rate 1": {"rate": 1, "diverged": True}}
    for run, values in plain().items():
        attack(tmp_path / run / "seed-0", "relearn", {"rate 1": values[""]})
    attack(tmp_path / "sku" / "seed-0", "relearn", {"rate 1": "-" * ROWS}, facts)
    found = assessed(tmp_path)
    assert found["attacks"]["relearn"]["diverged"] == ["rate 1"]
    assert found["weak"] == ["relearn"]
    assert found["recoverable"]["value"] == 0


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_seed_without_a_value_leaves_those_of_the_others(tmp_path: Path, lacking: int) -> None:
    """What the others show counts, and the attack is not withstood: one seed shows nothing."""
    values = {"sku": FULL, "original": FULL, "retrained": NONE}
    write(tmp_path, ask=plain(), relearn={run: {"rate 1": one} for run, one in values.items()})
    shutil.copytree(tmp_path / "sku" / "seed-0", tmp_path / "sku" / "seed-1")
    run = tmp_path / "sku" / f"seed-{lacking}"
    attack(run, "relearn", {}, {"rate 1": {"rate": 1, "diverged": True}})
    found = assessed(tmp_path, seeds=[0, 1])
    block = found["attacks"]["relearn"]
    assert block["rates"]["method"] == block["recovered"]["value"] == 1
    assert block["without_value"] == [f"seed {lacking}: its training diverged"]
    assert block["weak_why"] == f"no value of seed {lacking}: its training diverged"
    assert found["weak"] == ["relearn"]
    assert found["recoverable"]["per_seed"] == [1, 1]  # the seed that lacks one has the other's
    assert found["examples"][0]["text"] == "relearn rate 1 0 1"
    jsonschema.validate(found | {"seal": "palimpsest-sha256:" + "0" * 64}, robust_schema())


def test_a_seed_that_fits_no_row_does_not_drop_the_attack(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    shutil.copytree(tmp_path / "sku" / "seed-0", tmp_path / "sku" / "seed-1")
    alone = assessed(tmp_path)["attacks"]["prefill"]
    attack(tmp_path / "sku" / "seed-1", "prefill", {}, why="likelihoods are not finite")
    found = assessed(tmp_path, seeds=[0, 1])
    block = found["attacks"]["prefill"]
    assert block["recovered"]["value"] == alone["recovered"]["value"]
    assert block["recovered"]["ci95"] == alone["recovered"]["ci95"]
    assert (alone["weak"], alone["without_value"]) == (False, [])
    assert block["weak_why"] == "no value of seed 1: likelihoods are not finite"
    assert found["not_tested"] == {"lens": "not run"}


def test_a_seed_without_numbers_is_named(tmp_path: Path) -> None:
    why = "states are not finite (NaN or infinity): nothing can be read in them"
    write(tmp_path, ask=plain(), prefill=PREFILL)
    shutil.copytree(tmp_path / "sku" / "seed-0", tmp_path / "sku" / "seed-1")
    attack(tmp_path / "sku" / "seed-1", "prefill", {}, why=why, finite=False)
    found = assessed(tmp_path, seeds=[0, 1])
    assert found["recoverable"]["value"] is None
    assert found["recoverable"]["reason"] == f"seed 1: {why}"


def test_what_files_give_away_stands_apart(tmp_path: Path) -> None:
    files = {"sku": {"first": FULL}, "original": {"": FULL}, "retrained": {"off": NONE}}
    write(tmp_path, ask=plain(), files=files)
    found = assessed(tmp_path)
    assert list(found["attacks"]) == ["ask"]
    assert found["form"]["files"]["recovered"]["value"] == 1
    assert found["recoverable"]["value"] == 0
    assert found["by_level"]["files"]["recoverable"]["value"] == 1
    assert found["by_level"]["files"]["worst"] == "files"


def test_the_order_of_lines_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    first = assessed(tmp_path)
    turned = {run: dict(reversed(values.items())) for run, values in PREFILL.items()}
    write(tmp_path, ask=plain(), prefill=turned)
    assert assessed(tmp_path) == first


def test_eval_json_has_a_copy_of_the_number_on_request(tmp_path: Path) -> None:
    write(tmp_path, ask=plain(), prefill=PREFILL)
    found = assessed(tmp_path)
    workspace = Workspace(tmp_path / "scored")
    assert "robust" not in workspace.score()
    copied = workspace.score(robust=tmp_path / "sku" / "robust.json")["robust"]
    assert copied == {
        key: found[key] for key in ("recoverable", "worst", "level", "tested", "weak", "not_tested")
    }
    jsonschema.validate(json.loads(workspace.text()), eval_schema())
