"""Confidence intervals: Wilson's for rates, the percentile bootstrap for everything else.

Rows of one group (the same fact, copies of a row, several answers of one prompt, windows of one
document) say less than as many independent rows, so a group is drawn as a whole. Groups are drawn
by their place in the order of their values: neither the order of the rows nor their ids matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
Bounds = tuple[float, float]

BOOTSTRAP_SEED = 20240613
"""Fixed, so that equal tables give equal intervals."""
SHARE: Bounds = (0.0, 1.0)
"""Between which values a share lies."""
_CHUNK = 2**22
_NO_WIDTH = 1e-12


def wilson(rate: float, n: float, confidence: float) -> Interval:
    """Wilson's score interval (1927) of a share `rate` seen in `n` independent rows.

    At rates of 0 and 1 the textbook interval is empty; this one keeps its coverage.
    ``scipy.stats.binomtest`` takes whole counts alone, and a mean over seeds is no whole count.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (middle - half) / scale, (middle + half) / scale
    # At the ends the exact bound is 0 or 1; floating point misses it by 1e-17.
    return (0.0 if rate == 0 else max(0.0, low), 1.0 if rate == 1 else min(1.0, high))


def independent_rows(values: np.ndarray, groups: np.ndarray) -> float:
    """As how many independent rows a share's rows count (Korn and Graubard 1998).

    It is p (1 - p) over the variance of the share between groups: the number of rows where groups
    do not matter, the number of groups where the rows of a group are all alike.

    Args:
        values: 0 and 1 [seeds, rows].
        groups: the label of each row's group.
    """
    rows = values.shape[1]
    count = len(np.unique(groups))
    if count == rows:
        return float(rows)
    shares = values.mean(axis=1)
    within = float((shares * (1 - shares)).sum())
    totals, sizes = by_group(values.T, groups)[:2]
    between = float(((totals - np.outer(sizes, shares)) ** 2).sum()) / rows**2
    # Where all rows are alike, nothing tells how alike those of a group are: they count as one.
    return min(float(rows), within / between) if within and between else float(count)


def by_group(columns: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums [groups, k], sizes [groups] and the place [rows] of each row's group among them.

    The order of groups is that of their sums, whatever the order and the labels of the rows.

    Args:
        columns: values [rows, k].
        groups: the label of each row's group [rows].
    """
    order = np.lexsort(columns.T[::-1])
    labels, number = np.unique(groups[order], return_inverse=True)
    totals = np.zeros((len(labels), columns.shape[1] + 1))
    np.add.at(totals, number, np.column_stack([columns[order], np.ones(len(columns))]))
    ranked = np.lexsort(totals.T[::-1])
    place = np.empty(len(labels), dtype=int)
    place[ranked] = np.arange(len(labels))
    of_row = np.empty(len(columns), dtype=int)
    of_row[order] = place[number]
    return totals[ranked, :-1], totals[ranked, -1], of_row


def bootstrap_means(
    columns: np.ndarray, groups: np.ndarray, resamples: int, seed: int = BOOTSTRAP_SEED
) -> np.ndarray:
    """Means of `columns` [rows, k] over `resamples` draws of groups with replacement: [draws, k].

    The columns of one draw come from the same rows, so that ratios of their means are valid draws.
    """
    sums, sizes, _ = by_group(columns, groups)
    totals = np.column_stack([sums, sizes])
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // totals.size)
    for start in range(0, resamples, step):
        block = draws[start : start + step]
        places = generator.integers(len(totals), size=(len(block), len(totals)))
        drawn = totals[places].sum(axis=1)
        block[:] = drawn[:, :-1] / drawn[:, -1:]
    return draws


def percentiles(draws: np.ndarray, confidence: float) -> Interval | None:
    """The central share `confidence` of `draws`; None if one of its ends is not finite."""
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [tail, 1 - tail])
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def bootstrap(
    columns: np.ndarray,
    groups: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    confidence: float,
    bounds: Bounds | None = None,
) -> Interval | None:
    """Percentile bootstrap (Efron 1979) of a function of column means.

    Args:
        columns: values [rows, k].
        groups: the label of each row's group [rows].
        statistic: maps means [draws, k] to [draws].
        resamples: number of draws.
        confidence: level in (0, 1).
        bounds: between which values the statistic can lie; None: it has no bounds.
    """
    interval = percentiles(statistic(bootstrap_means(columns, groups, resamples)), confidence)
    return with_width(interval, len(np.unique(groups)), confidence, bounds)


def with_width(
    interval: Interval | None, groups: int, confidence: float, bounds: Bounds | None
) -> Interval | None:
    """`interval`, or where all draws are equal, how far unseen rows could move the value.

    If all `groups` are alike, a share q of others may still be unseen: Wilson's upper bound for 0
    of `groups` (about 4 / groups; the "rule of three" is its one-sided form). Those may lie at
    either bound, so the mean lies between v - q (v - low) and v + q (high - v). For a constant of 0
    or 1 this is the interval of a rate. Without bounds nothing can be said: None.
    """
    if interval is None or not is_point(interval):
        return interval
    return None if bounds is None else moved(interval[0], unseen(groups, confidence), bounds)


def auc_with_width(
    interval: Interval | None, groups: tuple[int, int], confidence: float
) -> Interval | None:
    """`interval` of an AUC, or where all draws are equal, how far unseen rows could move it.

    Args:
        interval: of the draws.
        groups: number of groups on either side.
        confidence: level in (0, 1).
    """
    if interval is None or not is_point(interval):
        return interval
    # All pairs are alike: those with a row of another kind on either side may be otherwise.
    alike = math.prod(1 - unseen(n, confidence) for n in groups)
    return moved(interval[0], 1 - alike, SHARE)


def unseen(groups: int, confidence: float) -> float:
    """The largest share of rows of another kind, if none of `groups` is of it."""
    return wilson(0.0, groups, confidence)[1]


def moved(value: float, share: float, bounds: Bounds) -> Interval:
    """Where a mean can lie if a `share` of its rows lies at one of the `bounds` instead."""
    low, high = bounds
    return value - share * (value - low), value + share * (high - value)


def is_point(interval: Interval) -> bool:
    """Whether an interval has no width, up to the rounding of sums."""
    low, high = interval
    return high - low <= _NO_WIDTH * max(1.0, abs(low))
