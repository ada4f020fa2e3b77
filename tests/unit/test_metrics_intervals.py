"""Intervals and measures: Wilson, bootstrap, several seeds, nulls with reasons."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from palimpsest.metrics.estimates import mean, missing, perplexity, rate, rounded, spread
from palimpsest.metrics.intervals import bootstrap, bootstrap_means, wilson

SETTINGS = {"confidence": 0.95, "bootstrap": 400}


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
    first, second = (bootstrap(values, lambda m: m[:, 0], 2000, 0.95) for _ in "12")
    assert first == second is not None
    half = 1.96 * values.std() / math.sqrt(200)
    assert first == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_bootstrap_keeps_columns_of_a_row_together() -> None:
    values = np.arange(7.0)
    draws = bootstrap_means(np.stack([values, 2 * values], axis=1), 50)
    assert draws[:, 1] == pytest.approx(2 * draws[:, 0])


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(11, 2))
    whole = bootstrap_means(values, 100)
    monkeypatch.setattr("palimpsest.metrics.intervals._CHUNK", 64)
    assert bootstrap_means(values, 100).tobytes() == whole.tobytes()


def test_one_row_has_an_interval() -> None:
    assert mean(np.array([[0.25]]), SETTINGS)["ci95"] == [0.25, 0.25]
    assert rate(np.array([[1.0]]), SETTINGS)["ci95"][1] == 1


def test_confidence_comes_from_the_settings() -> None:
    values = np.random.default_rng(3).uniform(size=(1, 50)) > 0.5
    wide = rate(values.astype(float), SETTINGS)["ci95"]
    narrow = rate(values.astype(float), {**SETTINGS, "confidence": 0.5})["ci95"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_seeds_are_averaged_and_rows_counted_once() -> None:
    measure = mean(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), SETTINGS)
    assert measure["value"] == pytest.approx(2.5 / 3)
    assert measure["n"] == 2
    assert measure["per_seed"] == [0.5, 1.0, 1.0]
    assert measure["sd"] == pytest.approx(math.sqrt(1 / 12))
    assert "per_seed" not in mean(np.array([[0.0, 1.0]]), SETTINGS)
    assert mean(np.array([[0.0, 1.0]]), SETTINGS)["sd"] is None


def test_more_seeds_of_the_same_rows_do_not_narrow_the_interval() -> None:
    one = np.array([[0.0, 1.0, 1.0, 0.0, 1.0]])
    for kind in (rate, mean):
        assert kind(np.repeat(one, 4, axis=0), SETTINGS)["ci95"] == kind(one, SETTINGS)["ci95"]


def test_rows_without_a_number_do_not_count() -> None:
    gaps = np.array([[0.0, np.nan, 1.0], [0.0, 0.5, 1.0]])
    assert mean(gaps, SETTINGS)["n"] == 2
    assert mean(np.full((1, 3), np.nan), SETTINGS, "why not") == missing("why not")


def test_perplexity_weighs_tokens_alike() -> None:
    # 1 token of probability 1/16, 3 tokens of probability 1: exp(log(16) / 4) = 2
    sums, tokens = np.array([[-math.log(16), 0.0]]), np.array([[1.0, 3.0]])
    measure = perplexity(sums, tokens, SETTINGS)
    assert measure["value"] == pytest.approx(2)
    assert measure["ci95"] == pytest.approx([1, 16])
    assert measure["n"] == 2


def test_perplexity_of_a_ruined_model_is_a_null_that_says_so() -> None:
    measure = perplexity(np.array([[-4000.0]]), np.array([[1.0]]), SETTINGS)
    assert measure["value"] is None
    assert measure["reason"] == "larger than a floating-point number can be"
    assert measure["ci95"] is None
    json.dumps(measure, allow_nan=False)


def test_perplexity_keeps_its_value_where_only_the_interval_overflows() -> None:
    sums = np.array([[-3000.0, -1.0, -1.0, -1.0, -1.0]])
    measure = perplexity(sums, np.ones_like(sums), SETTINGS)
    assert math.isfinite(measure["value"])
    assert measure["ci95"] is None


def test_rounding_and_spread() -> None:
    assert rounded(1 / 3) == 0.3333333333
    assert rounded(123456789.123456) == 123456789.1
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
