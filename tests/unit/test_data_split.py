"""Splits go by prompt, not by row, and depend on nothing but the seed and the texts."""

from __future__ import annotations

import random

from palimpsest.data.records import Record
from palimpsest.data.split import draw, normalised, share_counts, split_groups

SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def test_prompts_that_differ_in_case_or_white_space_are_one_group() -> None:
    assert normalised("  What\u00a0IS\n it? ") == normalised("what is it?")
    assigned = split_groups(["What is it?", "what  IS it?", "other"], {"all": 1.0}, seed=0)
    assert len(assigned) == 2


def test_every_group_is_in_one_share_and_counts_are_exact() -> None:
    groups = [f"question {i}" for i in range(101)]
    assigned = split_groups(groups, SHARES, seed=3)
    counts = {name: list(assigned.values()).count(name) for name in SHARES}
    assert counts == share_counts(101, SHARES) == {"test": 25, "train": 51, "val": 25}


def test_the_split_ignores_the_order_of_the_file_and_of_the_shares() -> None:
    groups = [f"question {i}" for i in range(50)]
    shuffled = random.Random(1).sample(groups, len(groups))
    turned = dict(reversed(SHARES.items()))
    assert split_groups(groups, SHARES, seed=0) == split_groups(shuffled, turned, seed=0)


def test_another_seed_splits_differently() -> None:
    groups = [f"question {i}" for i in range(50)]
    assert split_groups(groups, SHARES, seed=0) != split_groups(groups, SHARES, seed=1)


def test_largest_remainders_and_an_unused_rest() -> None:
    assert share_counts(10, {"a": 0.1, "b": 0.2, "c": 0.7}) == {"a": 1, "b": 2, "c": 7}
    assert share_counts(7, {"a": 0.5}) == {"a": 4}
    assert share_counts(3, {"a": 0.333, "b": 0.333, "c": 0.333}) == {"a": 1, "b": 1, "c": 1}
    assert share_counts(0, {"a": 1.0}) == {"a": 0}


def test_max_rows_draws_by_seed_and_keeps_the_order_of_the_file() -> None:
    records = [Record(f"q{i}", "a", f"q{i}", source_row=i) for i in range(40)]
    drawn = draw(records, 10, seed=0)
    rows = [r.source_row for r in drawn]
    assert len(rows) == 10
    assert rows == sorted(rows)
    assert rows != [r.source_row for r in draw(records, 10, seed=1)]
    # A larger draw contains the smaller one.
    assert set(rows) < {r.source_row for r in draw(records, 20, seed=0)}
    assert len(draw(records, 400, seed=0)) == len(draw(records, None, seed=0)) == 40
