"""Which rows are answered freely, where not all are."""

from __future__ import annotations

import random

import pytest

from palimpsest.metrics.asked import draw_ids

IDS = [f"hazards-{i:05d}" for i in range(40)]


@pytest.mark.parametrize("count", [None, 40, 41])
def test_all_rows_are_drawn_without_a_limit_below_their_number(count: int | None) -> None:
    assert draw_ids(IDS, count) == IDS


def test_the_draw_has_so_many_rows_in_the_order_given() -> None:
    for count in (1, 7, 39):
        found = draw_ids(IDS, count)
        assert len(found) == count
        assert found == [name for name in IDS if name in found]


def test_the_draw_does_not_depend_on_the_order_of_the_rows() -> None:
    shuffled = random.Random(1).sample(IDS, len(IDS))
    assert set(draw_ids(shuffled, 9)) == set(draw_ids(IDS, 9))


def test_it_is_no_prefix_and_a_larger_draw_holds_the_smaller_one() -> None:
    assert draw_ids(IDS, 9) != IDS[:9]
    assert set(draw_ids(IDS, 9)) < set(draw_ids(IDS, 10))


@pytest.mark.parametrize("letter", ["t", "t3", "u"])
def test_paraphrases_draw_the_same_rows(letter: str) -> None:
    paraphrases = [f"{name}-{letter}" for name in IDS]
    assert draw_ids(paraphrases, 9) == [f"{name}-{letter}" for name in draw_ids(IDS, 9)]


def test_a_part_that_lacks_some_paraphrases_shares_all_others() -> None:
    # One row has no paraphrase: another one takes its place.
    gone = draw_ids(IDS, 9)[3]
    rest = draw_ids([f"{name}-u" for name in IDS if name != gone], 9)
    assert {f"{name}-u" for name in draw_ids(IDS, 9) if name != gone} < set(rest)
