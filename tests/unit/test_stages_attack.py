"""The stage of an attack: what a killed job goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from kit import attacked_text
from palimpsest.attacking.target import Target
from palimpsest.errors import UserError
from palimpsest.io.atomic import is_private
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.asked import draw_ids
from palimpsest.stages.attack import _side_folder


def test_cells_of_other_data_are_not_gone_on_with(tmp_path: Path) -> None:
    bench = attacked_text.bench(tmp_path)
    others = {"retain": "more/all"}
    table = tmp_path / "datasets" / "more" / "all.parquet"

    def side(text: str) -> Path:
        write_table(table, pa.table({"id": ["more-0"], "prompt": [text], "response": [text]}))
        write_manifest(table.parent, [table.name], format="qa")
        job = bench.job("ask")
        job.config["parts"] = job.config["parts"] | {"others": others}
        return _side_folder(job)

    cell = side("one") / "cell.parquet"
    cell.write_text("a cell", encoding="utf-8")
    side("one")
    assert cell.exists()
    side("another")
    assert not cell.exists()


def test_answers_are_their_owners_and_the_split_is_not(tmp_path: Path) -> None:
    root = tmp_path / "open"
    bench = attacked_text.bench(root)
    (root / "attacks").mkdir()
    bench.attack("ask")
    for name, private in (("attacks", True), ("split.json", False)):
        assert is_private(root / name) is private
    assert all(is_private(path) for path in (root / "attacks").iterdir())


def test_tables_name_the_facts_of_the_split_whatever_the_wording(tmp_path: Path) -> None:
    names = [f"fact-{i // 2}" for i in range(8)]  # two wordings of each
    wrong = pa.array([["w1 w2"]] * 8)
    bench = attacked_text.bench(tmp_path, paraphrase_of=names, perturbed=wrong)
    split = bench.target("ask").split
    assert set(split["folds"]) == set(split["halves"]) == set(split["groups"]) == set(names)
    for kind in ("ask", "choice"):
        table, _ = bench.attack(kind)
        assert set(table[table["part"] == "forget"]["id"]) == set(names)


def test_other_wordings_of_what_is_kept_are_in_no_fold(tmp_path: Path) -> None:
    target = attacked_text.bench(tmp_path).target("ask")
    rows = target.forget
    foreign = replace(rows[0], id="foreign", fact="foreign")
    measured = [target.measured([*rows, foreign], fold) for fold in (0, 1)]
    assert sorted(row.id for found in measured for row in found) == [row.id for row in rows]
    assert target.measured([foreign], None) == [foreign]


def test_without_folds_only_attacks_that_need_them_are_refused(tmp_path: Path) -> None:
    bench = attacked_text.bench(tmp_path, group=["one person"] * 8)
    bench.attack("ask")
    target = bench.target("relearn")
    why = r"attack 'relearn' divides .* 8 of 8 rows to forget belong together .*'forget-00'"
    for rows in (lambda: target.attackers(0), lambda: target.measured(target.forget, 0)):
        with pytest.raises(UserError, match=why):
            rows()
    assert target.measured(target.forget, None) == target.forget


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
    bench = attacked_text.bench(tmp_path, group=["one person"] * 8)
    table, document = bench.attack(kind, **settings)
    assert table.empty
    assert why in document["why"]


def test_a_cell_that_fits_no_row_leaves_the_others(tmp_path: Path) -> None:
    bench = attacked_text.bench(tmp_path)
    texts = {"plain": "Now: {prompt}", "list": "{prompt} {choices}"}
    table, document = bench.attack("wrapped", texts=texts)
    assert set(table["setting"]) == {"plain"}
    assert "why" not in document
    assert "what the text uses" in document["settings"]["list"]["why"]


def test_as_many_rows_are_measured_as_are_asked_and_the_attacker_has_the_others(
    tmp_path: Path,
) -> None:
    bench = replace(attacked_text.bench(tmp_path, perturbed=pa.array([["w1 w2"]] * 8)), rows=3)
    names = [f"forget-{i:02}" for i in range(8)]
    first = sorted(draw_ids(names, 3))

    def measured(kind: str, **settings: Any) -> list[str]:
        table, _ = bench.attack(kind, **settings)
        return sorted(table[table["part"] == "forget"]["id"])

    assert measured("ask") == measured("few_shot", shots=[2]) == first
    assert measured("choice") == names, "nothing is written"
    attackers = {row.id for row in bench.target("few_shot").attackers(0)}
    assert len(attackers) == 4
    assert not attackers & set(first)


def test_answers_that_were_measured_are_not_asked_again(tmp_path: Path) -> None:
    bench = attacked_text.bench(tmp_path)
    said = {("forget", "forget-02"): "w52 w5 w6 w72 w7", ("retain", "test-01"): "w41 w8"}
    lines = [
        {"part": part, "id": name, "answer": text, "tokens": 5, "stopped": True}
        for (part, name), text in said.items()
    ]
    answers = tmp_path / "generations.parquet"
    write_table(answers, pa.Table.from_pylist(lines))
    before, _ = bench.attack("ask")
    after, _ = bench.attack("ask", measured=answers)
    plain, taken = (
        {(row.part, row.id): (row.text, row.value) for row in table.itertuples()}
        for table in (before, after)
    )
    assert taken == plain | {row: (text, 1.0) for row, text in said.items()}
    assert all(plain[row][1] == 0 for row in said)
