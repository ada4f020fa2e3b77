"""The stage of an attack: what a killed job goes on with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from kit import attacked
from palimpsest.attacking.target import Target
from palimpsest.attacks import Cell, Found, Outcome
from palimpsest.errors import UserError
from palimpsest.io.atomic import is_private
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics.asked import draw_ids
from palimpsest.model.description import updates_in
from palimpsest.pipeline.stages import Attack
from palimpsest.stages.attack import _check, _side_folder, attack


def test_cells_of_other_data_are_not_gone_on_with(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path)
    others = {"retain": "more/all"}
    table = tmp_path / "datasets" / "more" / "all.parquet"

    def side(text: str) -> Path:
        write_table(table, pa.table({"id": ["more-0"], "prompt": [text], "response": [text]}))
        write_manifest(table.parent, [table.name], format="qa")
        job = bench.job("ask")
        job.config["parts"] = job.config["parts"] | {"others": others, "wordings": []}
        return _side_folder(job)

    cell = side("one") / "cell.parquet"
    cell.write_text("a cell", encoding="utf-8")
    side("one")
    assert cell.exists()
    side("another")
    assert not cell.exists()


def test_answers_are_their_owners_and_the_split_is_not(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path / "open")
    folder = bench.folder() / "attacks"
    folder.mkdir()
    bench.attack("ask")
    for path, private in ((folder, True), (bench.split, False)):
        assert is_private(path) is private
    assert all(is_private(path) for path in folder.iterdir())


def test_tables_name_the_facts_of_the_split_whatever_the_wording(tmp_path: Path) -> None:
    names = [f"fact-{i // 2}" for i in range(8)]  # two wordings of each
    wrong = pa.array([["w1 w2"]] * 8)
    bench = attacked.Subject(tmp_path, paraphrase_of=names, perturbed=wrong)
    split = bench.target("ask").split
    assert set(split["folds"]) == set(split["halves"]) == set(split["groups"]) == set(names)
    for kind in ("ask", "choice"):
        table, _ = bench.attack(kind)
        assert set(table[table["part"] == "forget"]["id"]) == set(names)


def test_other_wordings_of_what_is_kept_are_in_no_fold(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("ask")
    rows = target.forget
    foreign = replace(rows[0], id="foreign", fact="foreign")
    measured = [target.measured([*rows, foreign], fold) for fold in (0, 1)]
    assert sorted(row.id for found in measured for row in found) == [row.id for row in rows]
    assert target.measured([foreign], None) == [foreign]


def test_without_folds_only_attacks_that_need_them_are_refused(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path, group=["one person"] * 8)
    bench.attack("ask")
    target = bench.target("relearn")
    why = r"attack 'relearn' divides .* 8 of 8 rows to forget belong together .*'forget-00'"
    for rows in (lambda: target.attackers(0), lambda: target.measured(target.forget, 0)):
        with pytest.raises(UserError, match=why):
            rows()
    assert target.measured(target.forget, None) == target.forget


def test_rows_of_the_attacker_with_a_key_are_left_out_by_name(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path)
    target = bench.target("few_shot", rows=["retain"])
    assert [row.id for row in target.others("retain")] == [f"train-0{i}" for i in range(5)]
    line = {"row": "train-05", "key": "w70", "of": "forget-00"}
    _, document = bench.attack("few_shot", rows=["retain"], shots=[2])
    assert document["left_out"] == {"retain": [line]}
    _, document = bench.attack("few_shot", shots=[2])
    assert document["left_out"] == {}


def test_a_key_that_another_wording_has_counts(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path)
    job = bench.job("few_shot", rows=["retain"])
    rows = {"id": ["more-0"], "prompt": ["w2"], "response": ["w41"], "paraphrase_of": ["forget-03"]}
    table = tmp_path / "datasets" / "more" / "all.parquet"
    write_table(table, pa.table({**rows, "key": pa.array([["w41"]])}))
    write_manifest(table.parent, [table.name], format="qa")
    job.config["parts"]["wordings"] = ["more/all"]
    target = Target(job, torch.device("cpu"), read_document(job.split))
    found = [(line["row"], line["of"]) for line in target.left_out["retain"]]
    assert ("train-01", "forget-03") in found


def test_an_attack_reads_no_part_that_its_settings_do_not_name(tmp_path: Path) -> None:
    """Otherwise it would not run again where that part changes."""
    target = attacked.Subject(tmp_path).target("choice")
    for name in ("retain", "unseen"):
        with pytest.raises(KeyError):
            getattr(target, name)
    assert attacked.Subject(tmp_path / "all").target("ask").unseen == []


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("choice", {}, "no row with wrong answers"),
        ("probe", {}, "no row with wrong answers"),
        ("wrapped", {"texts": {"list": "{prompt} {choices}"}}, "what the text uses"),
        ("few_shot", {"rows": ["forget"]}, "8 of 8 rows to forget belong together"),
    ],
)
def test_an_attack_that_fits_no_row_says_why(
    tmp_path: Path, kind: str, settings: dict[str, Any], why: str
) -> None:
    bench = attacked.Subject(tmp_path, group=["one person"] * 8)
    table, document = bench.attack(kind, **settings)
    assert table.empty
    assert why in document["why"]


def test_a_cell_that_fits_no_row_leaves_the_others(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path)
    texts = {"plain": "Now: {prompt}", "list": "{prompt} {choices}"}
    table, document = bench.attack("wrapped", texts=texts)
    assert set(table["setting"]) == {"plain"}
    assert "why" not in document
    assert "what the text uses" in document["settings"]["list"]["why"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> attacked.Subject:
    """A subject with a model whose upper blocks give no numbers."""
    made = attacked.knowing(tmp_path_factory.mktemp("broken"))
    updates = updates_in(made.original)
    name = next(name for name in updates if ".2.mlp.down_proj" in name)
    updates[name] = replace(updates[name], b=torch.full_like(updates[name].b, torch.nan))
    made.model("broken", updates)
    return made


@pytest.mark.parametrize(
    ("kind", "settings", "what"),
    [
        ("lens", {}, "states"),
        ("probe", {}, "states"),
        ("patch", {}, "states"),
        ("ablate", {}, "states"),
        ("choice", {}, "likelihoods"),
        ("ask", {}, "logits"),
        ("sample", {"draws": 2, "k": [1]}, "logits"),
    ],
)
def test_a_model_without_numbers_is_reported_and_withstands_nothing(
    broken: attacked.Subject, kind: str, settings: dict[str, Any], what: str
) -> None:
    table, document = broken.attack(kind, "broken", **settings)
    assert table.empty
    assert document["why"].startswith(f"{what} are not finite")
    # An attack that changes weights may have broken them itself.
    assert document["finite"] is (what == "logits")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_value_that_is_no_share_is_refused(broken: attacked.Subject, value: float) -> None:
    found = Found([Outcome("forget-00", 0.5), Outcome("forget-01", value)])
    with pytest.raises(
        UserError, match=r"'choice' gave row 'forget-01' the value .*from 0 .* to 1"
    ):
        _check(found, Cell(""), broken.job("choice", "broken"))


def test_relearning_on_a_model_without_numbers_diverges(broken: attacked.Subject) -> None:
    settings = {"rates": [1e-3], "measure_at": [3], "rank": 2}
    table, document = broken.attack("relearn", "broken", **settings)
    assert table.empty
    assert {facts["diverged"] for facts in document["settings"].values()} == {True}


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("few_shot", {"shots": [2]}),
        ("turns", {}),
        ("ablate", {"directions": ["with_original"], "at": ["all"]}),
        ("lens", {"heads": ["fitted"], "every": 4}),
        ("probe", {"every": 4}),
        ("relearn", {"rates": [1e-3], "measure_at": [3], "rank": 2}),
    ],
)
def test_a_fold_without_rows_is_refused_or_named(
    broken: attacked.Subject, tmp_path: Path, kind: str, settings: dict[str, Any], fold: int
) -> None:
    """All rows are in one fold: there the attacker has none, in the other nothing is wanted."""
    job = broken.job(kind, **settings)
    split = read_document(job.split)
    write_document(tmp_path / "split.json", split | {"folds": dict.fromkeys(split["folds"], fold)})
    job = replace(job, split=tmp_path / "split.json", out=tmp_path / "attack.json")
    try:
        attack(job)
    except UserError as error:
        said = str(error)
    else:
        document = read_document(job.out)
        said = " ".join(facts.get("why", "") for facts in document["settings"].values())
    assert re.search(r"no row (to forget )?(is outside|of|in|is in) fold", said)


def test_lens_and_ablate_do_without_general_rows(tmp_path: Path) -> None:
    """They use those to keep; without these, the direction from general prompts has no value."""
    rows = dict(attacked.statements())
    del rows["general"]
    bench = attacked.Subject(tmp_path / "kept", rows=rows)
    table, _ = bench.attack("lens", heads=["fitted"], every=4)
    assert set(table["id"]) == {f"forget-{i:02}" for i in range(attacked.STATEMENTS)}
    _, document = bench.attack("ablate", directions=["without_original"], at=["all"])
    assert document["settings"]["without_original all"]["against"] == "retain"
    del rows["train"]
    bench = attacked.Subject(tmp_path / "alone", rows=rows)
    table, _ = bench.attack("lens", heads=["fitted"], every=4)
    assert len(table) == attacked.STATEMENTS
    table, document = bench.attack("ablate", at=["all"])
    assert set(table[table["part"] == "forget"]["setting"]) == {"with_original all"}
    assert "give it `general` or `retain`" in document["settings"]["without_original all"]["why"]


def test_as_many_rows_are_measured_as_are_asked_and_the_attacker_has_the_others(
    tmp_path: Path,
) -> None:
    bench = attacked.Subject(tmp_path)
    first = sorted(draw_ids([f"forget-{i:02}" for i in range(8)], 3))

    def job(kind: str, **settings: Any) -> Attack:
        made = bench.job(kind, **settings)
        return replace(made, config=made.config | {"rows": 3})

    for one in (job("ask"), job("few_shot", shots=[2])):
        attack(one)
        table = read_table(one.out.with_suffix(".parquet"))[0].to_pandas()
        assert sorted(table[table["part"] == "forget"]["id"]) == first
    target = Target(job("few_shot"), torch.device("cpu"), read_document(bench.split))
    attackers = {row.id for row in target.attackers(0)}
    assert len(attackers) == 4
    assert not attackers & set(first)


def test_answers_that_were_measured_are_not_asked_again(tmp_path: Path) -> None:
    bench = attacked.Subject(tmp_path)
    said = {("forget", "forget-02"): "w52 w5 w6 w72 w7", ("retain", "test-01"): "w41 w8"}
    lines = [
        {"part": part, "id": name, "answer": text, "tokens": 5, "stopped": True}
        for (part, name), text in said.items()
    ]
    answers = tmp_path / "generations.parquet"
    write_table(answers, pa.Table.from_pylist(lines))
    before, _ = bench.attack("ask")
    job = replace(bench.job("ask"), answers=answers)
    attack(job)
    after = read_table(job.out.with_suffix(".parquet"))[0].to_pandas()
    plain, taken = (
        {(row.part, row.id): (row.text, row.value) for row in table.itertuples()}
        for table in (before, after)
    )
    assert taken == plain | {row: (text, 1.0) for row, text in said.items()}
    assert all(plain[row][1] == 0 for row in said)
