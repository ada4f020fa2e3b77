"""Shots in the context: which rows they are, how many fit, and that none gives an answer away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import attacked
from palimpsest.attacks import Cell, few_shot
from palimpsest.errors import UserError
from palimpsest.metrics.matching import contains_any

SETTINGS = {"rows": ["forget", "retain"], "shots": [2, 9], "seeds": [0, 1]}


def test_shots_hold_no_measured_row_and_no_key_of_one(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("few_shot", **SETTINGS)
    settings = few_shot.Settings(kind="few_shot", **SETTINGS)
    shown: dict[str, set[str]] = {}
    for cell in settings.cells():
        measured = target.measured(target.forget, cell.fold)
        rows = few_shot.shots(target, cell, 9)
        assert not {row.fact for row in rows} & {row.fact for row in measured}
        keys = [key for row in measured for key in row.key]
        assert not any(contains_any(f"{row.prompt} {row.response}", keys) for row in rows)
        shown.setdefault(cell.setting, set()).update(row.id for row in rows)
    assert shown["forget-9"] == {f"forget-0{i}" for i in range(8)}
    assert shown["retain-9"] == {f"train-0{i}" for i in range(5)}, "train-05 holds w70"


def test_the_order_follows_from_the_seed_and_a_few_are_the_first_of_many(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("few_shot", **SETTINGS)
    orders = [[r.id for r in few_shot.shots(target, Cell("", 0, s), 4)] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert [r.id for r in few_shot.shots(target, Cell("", 0, 0), 2)] == orders[0][:2]


def test_each_row_is_asked_once_a_seed_after_the_same_shots(tmp_path: Path) -> None:
    table, document = attacked.Subject(tmp_path).attack("few_shot", **SETTINGS)
    for (_, _), part in table.groupby(["setting", "seed"]):
        assert sorted(part["id"]) == [f"forget-0{i}" for i in range(8)]
    assert set(table[table["setting"].str.startswith("retain")]["fold"].dropna()) == set()
    assert document["settings"] == {
        "forget-2": {"asked": 2, "shots": 2},
        "forget-9": {"asked": 9, "shots": 4},  # all that the other fold has
        "retain-2": {"asked": 2, "shots": 2},
        "retain-9": {"asked": 9, "shots": 5},
    }


def test_the_answers_are_those_of_the_whole_context(tmp_path: Path) -> None:
    """The shots are read once; that changes no answer."""
    bench = attacked.Subject(tmp_path, attacked.declining(attacked.facts(), steps=20))
    table, _ = bench.attack("few_shot", rows=["forget"], shots=[3])
    target = bench.target("few_shot", rows=["forget"], shots=[3])
    for fold in (0, 1):
        sources = target.measured(target.forget, fold)
        before = target.rows(few_shot.shots(target, Cell("forget-3", fold), 3))
        rows = [target.form.after(before, row) for row in target.rows(sources)]
        answers = target.answers(target.network, rows)
        found = table[table["fold"] == fold]
        assert found["id"].tolist() == [row.id for row in sources]
        assert found["text"].tolist() == [answer.text for answer in answers]


def test_as_many_shots_as_fit_are_used_in_every_fold_and_order(tmp_path: Path) -> None:
    """A shot has 9 tokens, a question 3, an answer up to 6; no token is a line break."""
    model = attacked.network(max_position_embeddings=35)
    bench = attacked.Subject(tmp_path / "short", model)
    _, document = bench.attack("few_shot", shots=[4], seeds=[0, 1])
    assert document["settings"]["forget-4"] == {"asked": 4, "shots": 2}
    bench = attacked.Subject(tmp_path / "none", attacked.network(max_position_embeddings=17))
    with pytest.raises(UserError, match=r"forget-4: no row fits the model's context of 17 tokens"):
        bench.attack("few_shot", shots=[4])


def test_shots_are_joined_as_they_were_taught(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("few_shot")
    first, second, asked = target.rows(target.forget[:3])
    joined = target.form.after([first, second], asked)
    assert joined.ids.tolist() == torch.cat([first.ids, second.ids, asked.ids]).tolist()
    assert joined.response.tolist() == asked.response.tolist()
    assert (joined.id, len(joined.prompt)) == (asked.id, len(joined) - len(asked.response))
