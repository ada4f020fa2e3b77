"""An estimate in eval.json: a value with count, interval and spread, or why there is none.

Inputs are arrays [seeds, rows]; NaN marks a row that could not be computed. The value is the mean
over seeds of each seed's value; ``sd`` is the sample standard deviation of those. ``n`` counts rows
(not rows x seeds), and ``ci95`` is the interval for the choice of rows: a further seed
of the same rows does not make it narrower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from palimpsest.metrics.intervals import (
    Interval,
    bootstrap,
    bootstrap_means,
    percentiles,
    wilson,
)

Estimate = dict[str, Any]
Settings = Mapping[str, Any]

TOO_LARGE = "larger than a floating-point number can be"
"""Why a perplexity has no value."""


def rounded(value: float) -> float:
    """`value` at ten significant digits: equal on machines that sum in another order."""
    return float(f"{value:.10g}")


def missing(reason: str, n: int = 0) -> Estimate:
    """An estimate that has no value, and why."""
    return {"value": None, "n": n, "ci95": None, "sd": None, "reason": reason}


def rate(values: np.ndarray, settings: Settings, why: str = "") -> Estimate:
    """A share of rows, with Wilson's interval; `values` hold 0 and 1."""
    values = without_gaps(values)
    if not values.size:
        return missing(why or "no row could be computed")
    seeds = values.mean(axis=1)
    interval = wilson(float(seeds.mean()), values.shape[1], settings["confidence"])
    return estimated(seeds, values.shape[1], interval)


def mean(values: np.ndarray, settings: Settings, why: str = "") -> Estimate:
    """A mean over rows, with a bootstrap interval."""
    values = without_gaps(values)
    if not values.size:
        return missing(why or "no row could be computed")
    return _bootstrapped(values, lambda m: m, settings, n=values.shape[1])


def perplexity(
    logprob_sums: np.ndarray, tokens: np.ndarray, settings: Settings, why: str = ""
) -> Estimate:
    """exp(-(sum of log-probabilities) / (number of tokens)), all tokens of all rows alike."""
    keep = (tokens > 0).all(axis=0)
    sums, counts = logprob_sums[:, keep], tokens[:, keep]
    if not sums.size:
        return missing(why or "no row could be computed")
    seeds = len(sums)

    def statistic(means: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(-means[..., :seeds] / means[..., seeds:])

    estimate = _bootstrapped(np.concatenate([sums, counts]), statistic, settings, n=sums.shape[1])
    if estimate["value"] is None:
        estimate["reason"] = TOO_LARGE
    return estimate


def harmonic_mean(columns: Sequence[np.ndarray], n: int, settings: Settings) -> Estimate:
    """Harmonic mean of the means of several measures; 0 if one of them is 0.

    Args:
        columns: values [seeds, rows] of each measure, without gaps; rows may differ.
        n: rows that all of them come from.
        settings: config section ``score``.
    """

    def harmonic(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.asarray(len(columns) / (1 / means).sum(axis=-1))

    by_seed = harmonic(np.stack([values.mean(axis=1) for values in columns], axis=-1))
    # Measures have different rows, so each draws its rows apart from the others.
    draws = [
        bootstrap_means(values.mean(axis=0)[:, None], settings["bootstrap"], seed)
        for seed, values in enumerate(columns)
    ]
    interval = percentiles(harmonic(np.concatenate(draws, axis=1)), settings["confidence"])
    return estimated(by_seed, n, interval)


def spread(values: list[float]) -> float | None:
    """Sample standard deviation, None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def without_gaps(values: np.ndarray) -> np.ndarray:
    """The rows with a number in every seed."""
    return values[:, ~np.isnan(values).any(axis=0)]


def _bootstrapped(
    columns: np.ndarray, by_seed: Callable[[np.ndarray], np.ndarray], settings: Settings, n: int
) -> Estimate:
    """A statistic of row means: `columns` is [k, rows], `by_seed` maps [..., k] to [..., seeds]."""
    value = by_seed(columns.mean(axis=1))
    interval = bootstrap(
        columns.T,
        lambda means: by_seed(means).mean(axis=-1),
        settings["bootstrap"],
        settings["confidence"],
    )
    return estimated(value, n, interval)


def estimated(seeds: np.ndarray, n: int, interval: Interval | None) -> Estimate:
    """The estimate whose value is the mean of one value per seed."""
    value = float(seeds.mean())
    if not np.isfinite(value):
        return missing("not finite", n)
    deviation = spread(seeds.tolist())
    estimate: Estimate = {
        "value": rounded(value),
        "n": n,
        "ci95": None if interval is None else [rounded(bound) for bound in interval],
        "sd": None if deviation is None else rounded(deviation),
        "reason": None,
    }
    if len(seeds) > 1:
        estimate["per_seed"] = [rounded(one) for one in seeds.tolist()]
    return estimate
