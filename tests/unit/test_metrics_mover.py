"""Intervals of differences and ratios of paired values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palimpsest.metrics.intervals import wilson
from palimpsest.metrics.mover import Side, correlation, difference, exact, paired, ratio, share


def table(both: int, one: int, other: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of yes and no by their counts."""
    left = [1.0] * (both + one) + [0.0] * (other + none)
    right = [1.0] * both + [0.0] * one + [1.0] * other + [0.0] * none
    return np.array(left), np.array(right)


def ends(*counts: int) -> tuple[float, float]:
    left, right = table(*counts)
    return paired(left, right, np.arange(len(left)), 0.95)


def test_newcombes_paired_interval() -> None:
    # Newcombe 1998, method 10: 36 both, 12 and 2 one alone, 0 neither
    assert ends(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_nothing_on_either_side_has_the_width_of_both_wilson_intervals() -> None:
    # All draws of a bootstrap would be 0. Of 0 of n the ends are 0 and z^2 / (n + z^2).
    high = 1.959964**2 / (48 + 1.959964**2)
    assert ends(0, 0, 0, 48) == pytest.approx((-high, high), abs=1e-6)


def test_the_correlation_of_pairs_narrows_and_is_shrunk() -> None:
    left, right = table(20, 4, 4, 20)
    # phi = (20 * 20 - 4 * 4) / 24^2 = 2/3; Newcombe takes n/2 = 24 from the numerator.
    assert correlation(left, right, 48) == pytest.approx((20 * 20 - 4 * 4 - 24) / 24**2)
    assert correlation(left, right, math.inf) == pytest.approx(2 / 3)
    assert correlation(left, 1 - right, 48) == pytest.approx(-2 / 3)
    assert correlation(left, np.ones(48), 48) == 0
    alike, apart = ends(24, 0, 0, 24), ends(12, 12, 12, 12)
    assert alike[1] - alike[0] < (apart[1] - apart[0]) / 3


def test_an_exact_value_adds_no_width() -> None:
    side = Side(0.5, 0.4, 0.65)
    assert difference(side, exact(0.25)) == pytest.approx((0.15, 0.4))
    assert ratio(side, exact(0.5)) == pytest.approx((0.8, 1.3))


def test_a_ratio_ends_where_the_difference_to_its_multiple_ends_at_zero() -> None:
    one, other, shared = Side(0.6, 0.5, 0.72), Side(0.9, 0.8, 0.94), 0.4
    found = ratio(one, other, shared)
    assert found is not None
    low, high = found
    for end, place in ((low, 0), (high, 1)):
        multiple = Side(*(end * value for value in other))
        assert difference(one, multiple, shared)[place] == pytest.approx(0, abs=1e-12)
    assert low < 0.6 / 0.9 < high
    assert ratio(one, Side(0.1, 0.0, 0.3)) is None


def test_rows_of_one_group_count_once() -> None:
    values = np.tile([1.0, 0.0, 0.0], 20)
    single = share(values, np.arange(60), 0.95)
    doubled = share(np.repeat(values, 2), np.repeat(np.arange(60), 2), 0.95)
    assert single == pytest.approx(doubled)
    assert single == pytest.approx((1 / 3, *wilson(1 / 3, 60, 0.95)))
