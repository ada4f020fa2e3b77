"""Intervals of a difference and of a ratio from the intervals of both sides (MOVER).

The method of variance estimates recovery (Zou and Donner 2008; for ratios Donner and Zou 2012) puts
the distances of each side's ends from its value together, with the correlation of the two. With
Wilson's ends and the correlation of pairs it is Newcombe's (1998) paired score interval, method 10.
A bootstrap is wrong where nothing is recalled on either side: all its draws are equal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from palimpsest.metrics.intervals import Interval, independent_rows, wilson


class Side(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def exact(value: float) -> Side:
    """A value that is known, such as the chance of a guess."""
    return Side(value, value, value)


def share(values: np.ndarray, groups: np.ndarray, confidence: float) -> Side:
    """The mean of values in [0, 1] with Wilson's ends.

    Wilson's variance p (1 - p) is that of yes and no, and the largest that such values can have: a
    mean over several answers gets an interval that is too wide rather than too narrow.

    Args:
        values: a value per row.
        groups: the label of each row's group; rows of one say less than independent ones.
        confidence: level of the two-sided interval.
    """
    mean = float(values.mean())
    return Side(mean, *wilson(mean, independent_rows(values[None], groups), confidence))


def difference(one: Side, other: Side, correlation: float = 0.0) -> Interval:
    """Interval of one minus other."""
    value = one.value - other.value
    down = _joined(one.value - one.low, other.high - other.value, correlation)
    up = _joined(one.high - one.value, other.value - other.low, correlation)
    return value - down, value + up


def ratio(one: Side, other: Side, correlation: float = 0.0) -> Interval | None:
    """Interval of one over other, both not negative; None where other may be 0.

    Its ends are the t at which the interval of one - t other ends at 0.
    """
    if other.low <= 0:
        return None

    def product(end: float, its: float) -> float:
        cross = correlation * (one.value - end) * (its - other.value)
        return one.value * other.value - cross

    low = product(one.low, other.high)
    known = one.low * (2 * one.value - one.low)
    root = low * low - known * other.high * (2 * other.value - other.high)
    high = product(one.high, other.low)
    scale = other.low * (2 * other.value - other.low)
    further = high * high - one.high * (2 * one.value - one.high) * scale
    below = low + math.sqrt(max(0.0, root))
    return (known / below if below else 0.0), (high + math.sqrt(max(0.0, further))) / scale


def correlation(one: np.ndarray, other: np.ndarray, rows: float) -> float:
    """Correlation of pairs, 0 where a side is constant; a positive one shrunk as Newcombe does.

    Args:
        one: a value per row.
        other: the other value of each row.
        rows: as how many independent rows they count.
    """
    spread = float(one.std() * other.std())
    if spread < 1e-12:
        return 0.0
    found = float(((one - one.mean()) * (other - other.mean())).mean()) / spread
    return found if found <= 0 else max(0.0, min(1.0, found) - 1 / (2 * rows * spread))


def paired(one: np.ndarray, other: np.ndarray, groups: np.ndarray, confidence: float) -> Interval:
    """Interval of the mean difference of values in [0, 1] that the same rows have on two sides."""
    rows = min(independent_rows(side[None], groups) for side in (one, other))
    ours, theirs = (share(side, groups, confidence) for side in (one, other))
    return difference(ours, theirs, correlation(one, other, rows))


def _joined(here: float, there: float, correlation: float) -> float:
    return math.sqrt(max(0.0, here**2 - 2 * correlation * here * there + there**2))
