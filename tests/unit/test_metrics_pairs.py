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
    bootstrapped,
    holm,
    p_value,
    pairs,
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


def test_a_mean_is_bootstrapped_over_groups() -> None:
    dice = np.random.default_rng(4)
    change = dice.normal(0.3, 1, size=100)
    normal = 2 * stats.norm.sf(abs(change.mean()) / (change.std() / 10))
    alone = bootstrapped(change, np.arange(100))
    assert alone == pytest.approx(normal, abs=0.01)
    assert bootstrapped(np.repeat(change, 2), np.arange(200) // 2) == alone
    assert p_value(change[None], np.zeros((1, 100)), np.arange(100), counted=False) == alone
    assert bootstrapped(np.zeros(5), np.arange(5)) == 1


def test_methods_without_common_rows_are_no_pair() -> None:
    assert pairs({"a": frame("01"), "b": frame("01", part="retain")}, 0.95) == []
    assert pairs({"a": frame("01")}, 0.95) == []
