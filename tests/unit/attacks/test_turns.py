"""The scripted talk: what is shown, what the model reads, which turn counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit import attacked
from palimpsest.attacks import turns
from palimpsest.engine.generate import Answer
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError

SETTINGS = {"deny": "w20", "again": "w21 {shown} w22 {prompt}"}


def test_a_turn_reads_all_turns_before_and_the_first_that_recalls_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = attacked.Subject(tmp_path)
    read: list[list[Row]] = []

    def answers(_: Any, __: Any, rows: list[Row]) -> list[Answer]:
        """The first row gives its fact in the second turn, the others none, and one is silent."""
        read.append(rows)
        key = f"w7{rows[0].id[-1]}"
        said = [key if len(read) % 3 == 2 else "w40", "", *["w41"] * (len(rows) - 2)]
        return [Answer(text, 1, True, ()) for text in said]

    monkeypatch.setattr("palimpsest.attacking.target.Target.answers", answers)
    table, document = bench.attack("turns", **SETTINGS)
    assert sorted(table["id"]) == [f"forget-0{i}" for i in range(8)]
    firsts = [read[0][0].id, read[3][0].id]
    assert set(table[table["value"] == 1]["id"]) == set(firsts)
    target = bench.target("turns", **SETTINGS)
    measured = target.measured(target.forget, 0)
    fact = turns.nearest(measured[1], target.attackers(0))
    prompt = measured[1].prompt
    script = [prompt, "w20", f"w21 {fact.response} w22 {prompt}"]
    expected = target.rows([measured[1]] * 3, script, ["..."] * 3)
    assert read[2][1].prompt.tolist() == [
        *expected[0].ids.tolist(),
        *expected[1].ids.tolist(),
        *expected[2].prompt.tolist(),
    ]
    assert document["settings"][""]["turns"] == 3


def test_what_is_shown_is_never_measured(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("turns")
    for fold in (0, 1):
        measured = target.measured(target.forget, fold)
        shown = {turns.nearest(row, target.attackers(fold)).fact for row in measured}
        assert not shown & {row.fact for row in measured}


def test_a_text_with_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attack turns: text 'deny' holds 'w74'"):
        attacked.Subject(tmp_path).attack("turns", deny="Not w74?")


def test_the_talk_is_had_with_plain_texts_as_well(tmp_path: Path) -> None:
    table, _ = attacked.Subject(tmp_path, text=True).attack("turns", **SETTINGS)
    assert sorted(table["id"]) == [f"forget-0{i}" for i in range(8)]
