"""Intervals and measures: Wilson, bootstrap, several seeds, nulls with reasons."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from palimpsest.metrics.estimates import (
    harmonic,
    mean,
    missing,
    of_means,
    perplexity,
    rate,
    rounded,
    spread,
)
from palimpsest.metrics.intervals import SHARE, bootstrap, bootstrap_means, wilson
from palimpsest.metrics.measures.privacy import auc

SETTINGS = {"confidence": 0.95, "bootstrap": 400}
UNSEEN = {n: 1.959964**2 / (n + 1.959964**2) for n in (1, 2, 4, 16)}
"""Wilson's upper bound for 0 of n."""


def alone(values: np.ndarray) -> np.ndarray:
    """Each row is a group of its own."""
    return np.arange(values.shape[1])


def test_wilson_by_hand() -> None:
    # 0 of 32: the upper bound is z^2 / (n + z^2) with z = 1.96
    low, high = wilson(0.0, 32, 0.95)
    assert low == 0
    assert high == pytest.approx(1.959964**2 / (32 + 1.959964**2), abs=1e-6)
    # 1 of 2 with z = 1: (1/2 + 1/4 ± sqrt(1/8 + 1/16)) / (1 + 1/2) = 1/2 ± sqrt(3)/6
    low, high = wilson(0.5, 2, 0.6826894921370859)
    assert (low, high) == pytest.approx((0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6))


@pytest.mark.parametrize("n", [1, 2, 7, 32, 400])
def test_wilson_is_that_of_scipy(n: int) -> None:
    for hits in range(n + 1):
        theirs = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits / n, n, 0.95) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 200])
def test_wilson_stays_in_the_unit_interval_and_mirrors(n: int) -> None:
    for hits in range(n + 1):
        low, high = wilson(hits / n, n, 0.95)
        assert 0 <= low <= hits / n <= high <= 1
        mirror = wilson(1 - hits / n, n, 0.95)
        assert (1 - high, 1 - low) == pytest.approx(mirror)


def test_bootstrap_is_seeded_and_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=(200, 1))
    first, second = (bootstrap(values, np.arange(200), lambda m: m[:, 0], 2000, 0.95) for _ in "12")
    assert first == second is not None
    half = 1.96 * values.std() / math.sqrt(200)
    assert first == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_bootstrap_keeps_columns_of_a_row_together() -> None:
    values = np.arange(7.0)
    draws = bootstrap_means(np.stack([values, 2 * values], axis=1), np.arange(7), 50)
    assert draws[:, 1] == pytest.approx(2 * draws[:, 0])


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(11, 2))
    whole = bootstrap_means(values, np.arange(11), 100)
    monkeypatch.setattr("palimpsest.metrics.intervals._CHUNK", 64)
    assert bootstrap_means(values, np.arange(11), 100).tobytes() == whole.tobytes()


def test_one_row_has_an_interval() -> None:
    one = np.array([[0.25]])
    share = mean(one, alone(one), SETTINGS, bounds=SHARE)["ci95"]
    unseen = UNSEEN[1]
    assert share == pytest.approx([0.25 - 0.25 * unseen, 0.25 + 0.75 * unseen], abs=1e-6)
    assert mean(one, alone(one), SETTINGS)["ci95"] is None
    assert rate(np.array([[1.0]]), np.arange(1), SETTINGS)["ci95"][1] == 1


@pytest.mark.parametrize("n", [2, 4, 16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_share_has_the_interval_of_a_rate(n: int, value: float) -> None:
    values = np.full((1, n), value)
    measure = mean(values, alone(values), SETTINGS, bounds=SHARE)
    assert measure["ci95"] == pytest.approx(rate(values, alone(values), SETTINGS)["ci95"])
    assert measure["ci95"][1] - measure["ci95"][0] == pytest.approx(UNSEEN[n], abs=1e-6)


def test_a_perfect_separation_is_not_certain() -> None:
    taught, new = np.linspace(1, 2, 16)[None], np.linspace(0, 0.5, 4)[None]
    measure = auc((taught, alone(taught)), (new, np.arange(4)), SETTINGS)
    assert measure["value"] == 1
    assert measure["ci95"] == pytest.approx([(1 - UNSEEN[16]) * (1 - UNSEEN[4]), 1], abs=1e-6)


COLUMNS = {
    "shares": (lambda v, g: mean(v, g, SETTINGS, bounds=SHARE), lambda dice: dice.uniform(size=20)),
    "constant": (lambda v, g: mean(v, g, SETTINGS, bounds=SHARE), lambda dice: np.zeros(20)),
    "rates": (lambda v, g: rate(v, g, SETTINGS), lambda dice: dice.uniform(size=20) < 0.3),
    "no hit": (lambda v, g: rate(v, g, SETTINGS), lambda dice: np.zeros(20)),
    "perplexity": (
        lambda v, g: perplexity(-9 * v, np.ceil(9 * v), g, SETTINGS),
        lambda dice: dice.uniform(0.1, 1, size=20),
    ),
    "attack": (
        lambda v, g: auc((v, g), (v**2, g + 1000), SETTINGS),
        lambda dice: dice.uniform(size=20),
    ),
    "means of two": (
        lambda v, g: of_means([v, v**2], [g, g], harmonic, g, SETTINGS),
        lambda dice: dice.uniform(size=20),
    ),
}
"""Kind of measure -> its estimate from values and groups, and how its values are drawn."""


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_doubled_rows_say_no_more_than_single_ones(kind: str, seeds: int) -> None:
    estimate, values = COLUMNS[kind]
    dice = np.random.default_rng(5)
    once = np.stack([values(dice) for _ in range(seeds)]).astype(float)
    doubled = estimate(np.repeat(once, 2, axis=1), np.repeat(alone(once), 2))
    single = estimate(once, alone(once))
    assert doubled["ci95"] == pytest.approx(single["ci95"], rel=1e-9)
    assert (doubled["value"], doubled["n"]) == (pytest.approx(single["value"]), 2 * single["n"])
    assert doubled["groups"] == single["n"]
    assert "groups" not in single


@pytest.mark.parametrize(
    "kind", [kind for kind in COLUMNS if kind not in ("attack", "means of two")]
)
def test_the_order_and_the_names_of_rows_change_nothing(kind: str) -> None:
    estimate, values = COLUMNS[kind]
    dice = np.random.default_rng(6)
    table = np.stack([values(dice), values(dice)]).astype(float)
    groups = np.arange(20) // 3
    order = dice.permutation(20)
    assert estimate(table[:, order], groups[order]) == estimate(table, groups)
    names = np.array(["seven", "two", "nine", "a", "b", "c", "d"])[groups]
    assert estimate(table, names) == estimate(table, groups)


def test_the_order_of_rows_changes_no_attack() -> None:
    dice = np.random.default_rng(7)
    taught, new = dice.uniform(size=(2, 12)), dice.uniform(size=(2, 9)) - 0.2
    first = auc((taught, np.arange(12) // 2), (new, np.arange(9)), SETTINGS)
    order = dice.permutation(12)
    assert (
        auc((taught[:, order], np.arange(12)[order] // 2), (new, np.arange(9)), SETTINGS) == first
    )


def test_rows_of_a_group_that_differ_count_for_more_than_one() -> None:
    """Groups that do not matter leave the interval as it is; groups of equal rows widen it."""
    dice = np.random.default_rng(8)
    values = (dice.uniform(size=(1, 400)) < 0.3).astype(float)
    width = lambda groups: float(np.diff(rate(values, groups, SETTINGS)["ci95"])[0])  # noqa: E731
    free, random, equal = (
        width(groups)
        for groups in (alone(values), np.arange(400) // 4, np.argsort(np.argsort(values[0])) // 4)
    )
    assert free == pytest.approx(random, rel=0.15)
    assert equal > 1.6 * free


def test_confidence_comes_from_the_settings() -> None:
    values = np.random.default_rng(3).uniform(size=(1, 50)) > 0.5
    wide = rate(values.astype(float), alone(values), SETTINGS)["ci95"]
    narrow = rate(values.astype(float), alone(values), {**SETTINGS, "confidence": 0.5})["ci95"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_seeds_are_averaged_and_rows_counted_once() -> None:
    measure = mean(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), np.arange(2), SETTINGS)
    assert measure["value"] == pytest.approx(2.5 / 3)
    assert measure["n"] == 2
    assert measure["per_seed"] == [0.5, 1.0, 1.0]
    assert measure["sd"] == pytest.approx(math.sqrt(1 / 12))
    assert "per_seed" not in mean(np.array([[0.0, 1.0]]), np.arange(2), SETTINGS)
    assert mean(np.array([[0.0, 1.0]]), np.arange(2), SETTINGS)["sd"] is None


def test_more_seeds_of_the_same_rows_do_not_narrow_the_interval() -> None:
    one = np.array([[0.0, 1.0, 1.0, 0.0, 1.0]])
    for kind in (rate, mean):
        several = kind(np.repeat(one, 4, axis=0), alone(one), SETTINGS)
        assert several["ci95"] == kind(one, alone(one), SETTINGS)["ci95"]


def test_rows_without_a_number_do_not_count() -> None:
    gaps = np.array([[0.0, np.nan, 1.0], [0.0, 0.5, 1.0]])
    assert mean(gaps, alone(gaps), SETTINGS)["n"] == 2
    assert mean(np.full((1, 3), np.nan), np.arange(3), SETTINGS, "why not") == missing("why not")


def test_perplexity_weighs_tokens_alike() -> None:
    # 1 token of probability 1/16, 3 tokens of probability 1: exp(log(16) / 4) = 2
    sums, tokens = np.array([[-math.log(16), 0.0]]), np.array([[1.0, 3.0]])
    measure = perplexity(sums, tokens, np.arange(2), SETTINGS)
    assert measure["value"] == pytest.approx(2)
    assert measure["ci95"] == pytest.approx([1, 16])
    assert measure["n"] == 2


def test_perplexity_of_a_ruined_model_is_a_null_that_says_so() -> None:
    measure = perplexity(np.array([[-4000.0]]), np.array([[1.0]]), np.arange(1), SETTINGS)
    assert measure["value"] is None
    assert measure["reason"] == "larger than a floating-point number can be"
    assert measure["ci95"] is None
    json.dumps(measure, allow_nan=False)


def test_perplexity_keeps_its_value_where_only_the_interval_overflows() -> None:
    sums = np.array([[-3000.0, -1.0, -1.0, -1.0, -1.0]])
    measure = perplexity(sums, np.ones_like(sums), alone(sums), SETTINGS)
    assert math.isfinite(measure["value"])
    assert measure["ci95"] is None


def test_rounding_and_spread() -> None:
    assert rounded(1 / 3) == 0.3333333333
    assert rounded(123456789.123456) == 123456789.1
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
