"""Methods against each other: exact tests of paired rows, Holm's correction, what is said."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from palimpsest.metrics.pairs import (
    ALIKE,
    BETTER,
    WORSE,
    Pair,
    Place,
    holm,
    page_pairs,
    pairs,
    places,
    resampled,
    sign_flips,
)


def frame(*seeds: str, part: str = "forget", column: str = "recall", copies: int = 1):
    """Rows of a method: a string of zeros and ones for each seed."""
    return pd.concat(
        pd.DataFrame(
            {
                "seed": seed,
                "part": part,
                "id": [f"{i}-{k}" for i in range(len(values)) for k in range(copies)],
                "group": [f"{i}" for i in range(len(values)) for _ in range(copies)],
                column: [value == "1" for value in values for _ in range(copies)],
            }
        )
        for seed, values in enumerate(seeds)
    )


def only(frames: dict[str, pd.DataFrame]) -> Pair:
    (pair,) = pairs(frames, 0.95)
    return pair


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (1, 0), (5, 0), (9, 3), (14, 2), (7, 7)])
def test_a_rate_has_mcnemars_exact_test(worse: int, better: int) -> None:
    changes = np.array([1] * worse + [-1] * better + [0] * 20)
    theirs = stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
    assert sign_flips(changes) == pytest.approx(theirs)


def test_whole_numbers_of_any_size_have_the_exact_distribution() -> None:
    changes = np.array([3, -1, 2, 2, 5, -4, 0])
    sums = [abs(np.dot(s, changes)) for s in itertools.product([1, -1], repeat=len(changes))]
    assert sign_flips(changes) == pytest.approx(np.mean(np.array(sums) >= changes.sum()))


def test_copies_of_rows_and_further_seeds_change_no_test() -> None:
    one, other = "0000000000111111", "1111111000111111"
    single = only({"a": frame(one), "b": frame(other)})
    assert single.p == pytest.approx(2 / 2**7)
    doubled = only({"a": frame(one, copies=2), "b": frame(other, copies=2)})
    seeds = only({"a": frame(one, one, one), "b": frame(other)})
    for pair in (doubled, seeds):
        assert pair.p == pytest.approx(single.p)
        assert pair.change["ci95"] == pytest.approx(single.change["ci95"])


def test_a_pair_is_told_apart_only_where_the_rows_tell_it() -> None:
    few, many = (
        only({"a": frame("00001"), "b": frame("11111")}),
        only({"a": frame("0000000001"), "b": frame("1111111111")}),
    )
    assert (few.verdict, few.change["value"]) == (ALIKE, pytest.approx(-0.8))
    assert (many.verdict, many.turned().verdict) == (BETTER, WORSE)
    low, high = many.change["ci95"]
    assert many.turned().change["ci95"] == [-high, -low]


def test_what_is_kept_is_better_where_it_is_higher() -> None:
    kept = {name: frame(row * 10, part="retain") for name, row in (("a", "0"), ("b", "1"))}
    assert only(kept).verdict == WORSE


def test_the_order_of_rows_changes_nothing() -> None:
    one, other = frame("0010110100"), frame("1111110110")
    assert only({"a": one[::-1], "b": other}) == only({"a": one, "b": other})


def test_holm_by_hand() -> None:
    # 0.01 x 3, 0.02 x 2, 0.04 x 1 but not below those before it
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_more_methods_make_each_pair_less_sure() -> None:
    two = {"a": frame("0" * 6 + "1"), "b": frame("1" * 7)}
    assert only(two).verdict == BETTER
    four = two | {"c": frame("1" * 7), "d": frame("1" * 7)}
    found = pairs(four, 0.95)
    assert len(found) == 6
    assert {pair.verdict for pair in found} == {ALIKE}
    assert found[0].adjusted == pytest.approx(6 * found[0].p)


def bootstrapped(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> float:
    p, _ = resampled([one, other], groups, np.array([[0, 1]]))
    return float(p[0])


def test_a_mean_is_bootstrapped_over_groups() -> None:
    dice = np.random.default_rng(4)
    change = dice.normal(0.3, 1, size=(1, 100))
    normal = 2 * stats.norm.sf(abs(change.mean()) / (change.std() / 10))
    none = np.zeros((1, 100))
    alone = bootstrapped(change, none, np.arange(100))
    assert alone == pytest.approx(normal, abs=0.01)
    doubled = (np.repeat(values, 2, axis=1) for values in (change, none))
    assert bootstrapped(*doubled, np.arange(200) // 2) == alone
    assert bootstrapped(none, none, np.arange(100)) == 1


def test_seeds_that_differ_make_a_difference_less_sure() -> None:
    dice = np.random.default_rng(6)
    rows = dice.normal(0, 1, size=(1, 400))
    noise, shift = dice.normal(0, 0.1, size=(6, 400)), np.array([[-0.3], [0.0], [0.3]])
    theirs = rows + noise[:3] + 0.15
    alike, apart = rows + noise[3:], rows + noise[3:] + shift
    groups = np.arange(400)
    assert bootstrapped(alike, theirs, groups) == pytest.approx(2 / 10_001)
    # Each of three draws from -0.3, 0 and 0.3 is a mean above 0.15 in 4 of 27 cases.
    assert bootstrapped(apart, theirs, groups) == pytest.approx(2 * 4 / 27, abs=0.02)


def test_the_draws_of_seeds_and_rows_have_the_spread_of_both() -> None:
    dice = np.random.default_rng(7)
    seeds, rows = dice.normal(0, 0.5, size=(8, 1)), dice.normal(0, 1, size=(1, 200))
    one, other = seeds + rows, np.zeros((1, 200))
    _, gaps = resampled([one, other], np.arange(200), np.array([[0, 1]]))
    expected = np.hypot(seeds.std() / 8**0.5, rows.std() / 200**0.5)
    assert gaps.std() == pytest.approx(expected, rel=0.08)


def test_a_share_over_seeds_must_hold_for_other_rows_and_other_seeds() -> None:
    never, always = "0" * 24, "1" * 24
    assert only({"a": frame(never, never, never), "b": frame(always)}).verdict == BETTER
    # One training of three did not forget: drawn alone it is as bad as the other method.
    lucky = only({"a": frame(never, never, always), "b": frame(always, always, always)})
    assert lucky.p > 0.05
    assert lucky.verdict == ALIKE
    assert lucky.change["value"] == pytest.approx(-2 / 3)


def test_the_correction_is_over_the_whole_page() -> None:
    two = {"a": frame("0" * 8 + "1"), "b": frame("1" * 9)}
    alone = page_pairs({"x": two}, 0.95)["x"][0]
    page = page_pairs({"x": two, "y": two, "z": two}, 0.95)
    assert page["y"][0].p == alone.p
    assert page["y"][0].adjusted == pytest.approx(3 * alone.p)


def test_a_page_of_many_methods_has_the_draws_to_tell_them_apart() -> None:
    dice = np.random.default_rng(8)
    rows = ["".join(dice.choice(["0", "1"], p=[0.9, 0.1], size=40)) for _ in range(3)]
    many = {f"good{i}": frame(*rows) for i in range(16)} | {"bad": frame(*["1" * 40] * 3)}
    found = [pair for pair in pairs(many, 0.95) if pair.other == "bad"]
    assert len(found) == 16
    assert {pair.verdict for pair in found} == {BETTER}


def test_places_are_as_wide_as_what_is_not_told_apart() -> None:
    frames = {
        "a": frame("0" * 24),
        "b": frame("0" * 23 + "1"),
        "c": frame("1" * 24),
        "bad": frame("1" * 24),
    }
    found = pairs(frames, 0.95)
    (ranked,) = places(found, ["a", "b", "c"]).values()
    assert ranked == {"a": Place(1, 2, 3), "b": Place(1, 2, 3), "c": Place(3, 3, 3)}
    assert places(found, ["a"]) == {}


def test_methods_without_common_rows_are_no_pair() -> None:
    assert pairs({"a": frame("01"), "b": frame("01", part="retain")}, 0.95) == []
    assert pairs({"a": frame("01")}, 0.95) == []


def test_methods_with_other_rows_are_compared_on_what_they_share() -> None:
    frames = {"a": frame("0" * 12), "b": frame("1" * 12), "c": frame("1" * 9)}
    rows = {(pair.method, pair.other): pair.change["n"] for pair in pairs(frames, 0.95)}
    assert rows == {("a", "b"): 12, ("a", "c"): 9, ("b", "c"): 9}
