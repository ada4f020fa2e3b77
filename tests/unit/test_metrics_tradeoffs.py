"""The Pareto set, its hypervolume and the expected best of k trials, against planted answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from palimpsest.metrics.tradeoffs import expected_best, hypervolume, pareto

STAIRS = [(1.0, 0.2), (0.6, 0.5), (0.5, 0.4), (0.3, 0.9), (0.6, 0.5), (0.1, 0.9)]


def test_the_set_has_what_nothing_beats() -> None:
    # (.5, .4) is beaten by (.6, .5), (.1, .9) by (.3, .9); the equal points stay both.
    assert pareto(STAIRS) == [True, True, False, True, True, False]
    assert pareto([]) == []
    assert pareto([(0.0, 0.0)]) == [True]
    assert pareto([(math.nan, 1.0), (0.5, 0.5)]) == [False, True]


def test_the_area_of_stairs_by_hand() -> None:
    # (1 - .6) .2 + (.6 - .3) .5 + .3 .9
    assert hypervolume(STAIRS) == pytest.approx(0.5)
    assert hypervolume([(1.0, 1.0)]) == 1.0
    assert hypervolume([(0.7, 0.0), (0.0, 1.0)]) == 0.0
    assert hypervolume([]) == 0.0
    assert hypervolume([(0.5, 0.5), (math.nan, 1.0)]) == pytest.approx(0.25)


def test_the_area_is_that_of_a_count_of_squares() -> None:
    dice = np.random.default_rng(5)
    points = [(float(x), float(y)) for x, y in np.round(dice.random((40, 2)), 2)]
    middles = (np.arange(100) + 0.5) / 100
    inside = np.zeros((100, 100), dtype=bool)
    for x, y in points:
        inside |= (middles[:, None] < x) & (middles[None] < y)
    assert hypervolume(points) == pytest.approx(inside.mean())
    best = [point for point, one in zip(points, pareto(points), strict=True) if one]
    assert hypervolume(best) == pytest.approx(hypervolume(points)), "the rest adds nothing"


def test_the_expected_best_is_that_of_all_draws() -> None:
    values = [0.1, 0.9, 0.4, 0.4]
    drawn = {
        k: np.mean([max(draw) for draw in itertools.product(values, repeat=k)]) for k in (1, 2, 3)
    }
    assert expected_best(values)[:3] == pytest.approx([drawn[k] for k in (1, 2, 3)])
    assert expected_best([0.0, 0.5, 1.0])[1] == pytest.approx(13 / 18)
    assert expected_best([0.3]) == [pytest.approx(0.3)]
    assert expected_best([]) == []


def test_a_lucky_method_rises_late() -> None:
    lucky, steady = expected_best([0.0] * 7 + [1.0]), expected_best([0.6] * 8)
    assert lucky[0] < steady[0]
    assert lucky[7] > steady[7]
    assert lucky == sorted(lucky)
