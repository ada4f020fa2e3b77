"""Criteria of the configuration: what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.config.load import read_config
from palimpsest.errors import UserError
from palimpsest.pipeline.results import slice_of

ROOT = Path(__file__).parents[2]
RECALL = {"measure": "forget.recall_rate", "at_most": 0.1}


def with_conditions(*conditions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return put(raw_config(), "criteria.audit", {"conditions": list(conditions), **more})


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ("forget.recal_rate", "did you mean 'forget.recall_rate'? valid: forget.accuracy, "),
        ("forgot.recall_rate", "valid: forget.<measure>, "),
        ("recall_rate", "no measure 'recall_rate'"),
        ("forget_wrapped.recall_rate", "no measure 'forget_wrapped.recall_rate'"),
        ("robust.gap", "robust.recoverable"),
    ],
)
def test_an_unknown_measure_is_refused_by_name(measure: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(with_conditions(RECALL, {"measure": measure, "at_most": 0.1}))
    message = str(error.value)
    assert message.startswith("config: criteria.audit.conditions[1].measure: no measure ")
    assert text in message


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"measure": "forget.recall_rate"}, "one of at_most, at_least and within is needed"),
        (RECALL | {"at_least": 0.5}, "there is at_most and at_least"),
        (RECALL | {"above": "original", "of": "original"}, "exclude each other"),
        ({"measure": "forget.recall_rate", "within": 0.1}, "within needs `of: retrained`"),
        ({"measure": "robust.recoverable", "at_most": 0.2, "above": "retrained"}, "already"),
        (RECALL | {"above": "base"}, "original, retrained"),
    ],
)
def test_a_condition_that_says_nothing_clear_is_refused(
    condition: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError, match=r"criteria\.audit\.conditions\[0\]") as error:
        load_config(with_conditions(condition))
    assert text in str(error.value)


def test_required_attacks_exist_and_suit_the_level() -> None:
    raw = put(with_conditions(RECALL), "attacks.choose", {"kind": "choice"})
    for name in ("ask", "choose"):
        load_config(put(raw, "criteria.audit.attacks", {"require": [name]}))
    with pytest.raises(UserError, match=r"require\[0\]: no attack 'choice'; did you mean 'choose'"):
        load_config(put(raw, "criteria.audit.attacks", {"require": ["choice"]}))
    text = put(raw, "criteria.audit.attacks", {"require": ["choose"]})
    with pytest.raises(UserError, match="'choose' is an attack of the level decoding, and these"):
        load_config(put(text, "criteria.audit.level", "text"))
    raw = put(with_conditions(RECALL), "attacks.stands_out", {"kind": "member"})
    with pytest.raises(UserError, match=r"'stands_out' brings nothing back, .*privacy\.mia_min_k"):
        load_config(put(raw, "criteria.audit.attacks", {"require": ["stands_out"]}))


def test_the_verdict_names_criteria_that_are_there() -> None:
    with pytest.raises(
        UserError, match=r"verdict\.criteria: no criteria 'audt'; did you mean 'audi"
    ):
        load_config(put(raw_config(), "verdict.criteria", "audt"))


def test_a_subject_may_name_its_own_criteria() -> None:
    raw = raw_config()
    subject = next(iter(raw["models"]))
    raw["criteria"]["lax"] = raw["criteria"]["audit"]
    assert load_config(raw).criteria_of(subject) == "audit"
    own = f"models.{subject}.criteria"
    assert load_config(put(raw, own, "lax")).criteria_of(subject) == "lax"
    with pytest.raises(UserError, match=r"criteria: no criteria 'laxx'; did you mean 'lax'"):
        load_config(put(raw, own, "laxx"))


def test_the_quick_criteria_require_what_the_quick_list_runs_and_have_the_limits_of_the_audit():
    cfg = read_config(ROOT / "config")
    quick, audit = cfg.criteria["quick"], cfg.criteria["audit"]
    assert set(quick.attacks.require) <= set(cfg.robust.lists["quick"])
    assert (quick.conditions, quick.level) == (audit.conditions, audit.level)


def test_the_full_list_measures_both_folds_and_the_quick_one_trains_on_one() -> None:
    cfg = read_config(ROOT / "config")
    folds = {name: {cell.fold for cell in one.cells()} for name, one in cfg.attacks.items()}
    quick, full = cfg.robust.lists["quick"], cfg.robust.lists["full"]
    assert {name: folds[name] for name in quick if cfg.attacks[name].trains()} == {
        "relearn-quick": {0}
    }
    assert folds["relearn"] == {0, 1}
    for name in full:
        assert folds[name] - {None} in (set(), {0, 1}), name
    costly = {"relearn-weights", "relearn-order", "relearn-seeds", "soft_prompt"}
    assert costly <= set(cfg.attacks) - {*quick, *full}


def test_the_shipped_criteria_are_about_an_open_model() -> None:
    audit = read_config(ROOT / "config").criteria["audit"]
    assert audit.level == "training"
    assert {one.measure for one in audit.conditions} >= {
        "forget.recall_rate",
        "robust.recoverable",
        "retain.recall_rate",
    }


def test_other_limits_judge_again_and_run_nothing_else() -> None:
    wildcards = {"model": "subject", "method": "sku"}
    slices = [
        {
            name: slice_of(name, load_config(raw), **wildcards)
            for name in ("verdict", "robust", "score")
        }
        for raw in (raw_config(), with_conditions(RECALL))
    ]
    assert slices[0]["verdict"] != slices[1]["verdict"]
    assert slices[0]["robust"] == slices[1]["robust"]
    assert slices[0]["score"] == slices[1]["score"]


def test_eval_json_waits_for_attacks_only_if_it_is_to_have_a_copy() -> None:
    asked = put(raw_config(), "robust.in_eval", True)
    attacked = put(asked, "models.subject.attacks", "ask")
    wildcards = {"model": "subject", "method": "sku"}
    plain, no_attacks, copied = (
        '"robust":true' in slice_of("score", load_config(raw), **wildcards).replace(" ", "")
        for raw in (raw_config(), asked, attacked)
    )
    assert (plain, no_attacks, copied) == (False, False, True)
