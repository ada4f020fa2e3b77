"""Which rows an attacker has and which he wants."""

from __future__ import annotations

import random

import pytest

from palimpsest.data.attack_split import Fact, attack_split, refuse_overlaps
from palimpsest.errors import UserError
from palimpsest.metrics.asked import draw_ids


def fact(name: str, key: str, *texts: str, group: str = "") -> Fact:
    """A fact whose response holds its key."""
    return Fact(name, group or name, [key], [f"What is {name}?", f"It is {key}.", *texts])


def facts(count: int = 12) -> list[Fact]:
    """Facts that share nothing."""
    return [fact(f"row{i:02}", f"word{i:02}q") for i in range(count)]


def test_folds_and_halves_divide_the_rows_evenly_and_differ() -> None:
    split = attack_split(facts())
    for name in ("folds", "halves"):
        assert sorted(split[name]) == [f"row{i:02}" for i in range(12)]
        assert sorted(split[name].values()) == [0] * 6 + [1] * 6
    assert split["folds"] != split["halves"]


@pytest.mark.parametrize("count", [1, 5, 6])
def test_one_fold_has_the_rows_that_are_asked_first_and_halves_divide_them(count: int) -> None:
    names = [f"row{i:02}" for i in range(12)]
    split = attack_split(facts())
    asked = draw_ids(names, count)
    assert {split["folds"][name] for name in asked} == {0}
    halves = [split["halves"][name] for name in asked]
    assert abs(halves.count(0) - halves.count(1)) <= 1


def test_a_fold_without_room_for_a_group_goes_on_with_smaller_ones() -> None:
    rows = [fact(f"row{i}", f"word{i}q", group="one" if i < 5 else "two") for i in range(9)]
    rows += [fact(f"one{i}", f"term{i}q", group=f"own {i}") for i in range(3)]
    folds = attack_split(rows)["folds"]
    for members in (range(5), range(5, 9)):
        assert len({folds[f"row{i}"] for i in members}) == 1
    assert 0 < list(folds.values()).count(0) <= 6


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = facts()
    mixed = random.Random(3).sample(rows, len(rows))
    assert attack_split(rows) == attack_split(mixed)


def test_rows_of_one_group_stay_together() -> None:
    rows = [fact(f"row{i}", f"word{i}q", group=f"person {i % 5}") for i in range(20)]
    split = attack_split(rows)
    for name in ("folds", "halves"):
        for person in range(5):
            assert (
                len({split[name][row.id] for row in rows if row.group == f"person {person}"}) == 1
            )


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_key_in_another_rows_text_keeps_both_in_one_fold(where: int) -> None:
    """In its question, its response, or a wording that is never asked (`where`)."""
    rows = facts()
    texts = [*rows[3].texts, "An unseen wording?"]
    texts[where] += " Not WORD07Q."
    rows[3] = Fact("row03", "row03", rows[3].keys, texts)
    split = attack_split(rows)
    assert split["together"] == [{"row": "row03", "key": "word07q", "of": "row07"}]
    assert split["groups"]["row03"] == split["groups"]["row07"]
    assert split["folds"]["row03"] == split["folds"]["row07"]
    assert split["halves"]["row03"] == split["halves"]["row07"]


def test_rows_that_all_belong_together_have_no_folds() -> None:
    rows = [fact(f"row{i}", f"word{i}q", group="one person") for i in range(4)]
    split = attack_split(rows)
    assert split["folds"] is None
    assert split["why"].startswith("4 of 4 rows to forget belong together (")
    assert "'row0'" in split["why"]
    assert (split["halves_of"], sorted(split["halves"].values())) == ("rows", [0, 0, 1, 1])


def test_where_most_belong_together_halves_keep_them_whole() -> None:
    rows = [fact(f"row{i}", f"word{i}q", group="one" if i < 5 else "") for i in range(7)]
    split = attack_split(rows)
    assert split["folds"] is None
    assert split["halves_of"] == "groups"
    halves = [{split["halves"][f"row{i}"] for i in side} for side in (range(5), (5, 6))]
    assert halves in ([{0}, {1}], [{1}, {0}])


def test_where_rows_can_be_divided_nothing_is_to_be_said() -> None:
    split = attack_split(facts())
    assert (split["why"], split["halves_of"]) == (None, "groups")


def test_a_single_row_has_no_other_fold() -> None:
    split = attack_split(facts(1))
    assert split["folds"] is None
    assert split["why"].startswith("1 of 1 rows")
    assert split["halves"] == {"row00": 0}


def test_a_text_of_the_attacker_with_a_key_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"carrier 'second' holds 'word02q', .*'row02'"):
        refuse_overlaps([("first", "Sure."), ("second", "It is Word02q.")], facts(), "carrier")
    refuse_overlaps([("first", "Sure."), ("second", "It is word02qs.")], facts(), "carrier")
