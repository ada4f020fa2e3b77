"""Confidence intervals: Wilson's for rates, the percentile bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]

BOOTSTRAP_SEED = 20240613
"""Fixed, so that equal tables give equal intervals."""
_CHUNK = 2**22


def wilson(rate: float, n: int, confidence: float) -> Interval:
    """Wilson's score interval (1927) of a share `rate` seen in `n` rows.

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


def bootstrap_means(columns: np.ndarray, resamples: int, seed: int = BOOTSTRAP_SEED) -> np.ndarray:
    """Means of `columns` [rows, k] over `resamples` draws of rows with replacement: [resamples, k].

    The columns of one draw come from the same rows, so that ratios of their means are valid draws.
    """
    rows = len(columns)
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // (rows * columns.shape[1]))
    for start in range(0, resamples, step):
        block = draws[start : start + step]
        places = generator.integers(rows, size=(len(block), rows))
        block[:] = columns[places].mean(axis=1)
    return draws


def percentiles(draws: np.ndarray, confidence: float) -> Interval | None:
    """The central share `confidence` of `draws`; None if one of its ends is not finite."""
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [tail, 1 - tail])
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def bootstrap(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    confidence: float,
) -> Interval | None:
    """Percentile bootstrap (Efron 1979) of a function of column means.

    Args:
        columns: values [rows, k].
        statistic: maps means [draws, k] to [draws].
        resamples: number of draws.
        confidence: level in (0, 1).
    """
    return percentiles(statistic(bootstrap_means(columns, resamples)), confidence)
