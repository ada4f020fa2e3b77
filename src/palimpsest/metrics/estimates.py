"""An estimate in eval.json: a value with count, interval and spread, or why there is none.

Inputs are arrays [seeds, rows]; NaN marks a row that could not be computed. The value is the mean
over seeds of each seed's value; ``sd`` is the sample standard deviation of those. ``n`` counts rows
(not rows x seeds), ``groups`` the groups that they form where these are fewer (see
`palimpsest.metrics.parts.independent`), and ``ci95`` is the interval for the choice of groups: a
further seed of the same rows does not make it narrower, nor does a copy of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from palimpsest.metrics.intervals import (
    SHARE,
    Bounds,
    Interval,
    bootstrap,
    bootstrap_means,
    independent_rows,
    percentiles,
    wilson,
    with_width,
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


def rate(
    values: np.ndarray,
    groups: np.ndarray,
    settings: Settings,
    why: str = "",
    bounds: Bounds | None = SHARE,
) -> Estimate:
    """A share of rows, with Wilson's interval.

    Args:
        values: 0 and 1, [seeds, rows].
        groups: the label of each row's group.
        settings: config section ``score``.
        why: the reason if no row has a value.
        bounds: those of every share.
    """
    values, groups = without_gaps(values, groups)
    if not values.size:
        return missing(why or "no row could be computed")
    seeds = values.mean(axis=1)
    rows = independent_rows(values, groups)
    interval = wilson(float(seeds.mean()), rows, settings["confidence"])
    return estimated(seeds, len(groups), interval, distinct(groups))


def mean(
    values: np.ndarray,
    groups: np.ndarray,
    settings: Settings,
    why: str = "",
    bounds: Bounds | None = None,
) -> Estimate:
    """A mean over rows, with a bootstrap interval; arguments as those of `rate`.

    Args:
        values: [seeds, rows].
        groups: the label of each row's group.
        settings: config section ``score``.
        why: the reason if no row has a value.
        bounds: between which values a row's value can lie; None: it has no bounds.
    """
    values, groups = without_gaps(values, groups)
    if not values.size:
        return missing(why or "no row could be computed")
    return _bootstrapped(values, groups, lambda m: m, settings, bounds)


def perplexity(
    logprob_sums: np.ndarray,
    tokens: np.ndarray,
    groups: np.ndarray,
    settings: Settings,
    why: str = "",
) -> Estimate:
    """exp(-(sum of log-probabilities) / (number of tokens)), all tokens of all rows alike."""
    keep = (tokens > 0).all(axis=0)
    sums, counts, groups = logprob_sums[:, keep], tokens[:, keep], groups[keep]
    if not sums.size:
        return missing(why or "no row could be computed")
    seeds = len(sums)

    def statistic(means: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(-means[..., :seeds] / means[..., seeds:])

    estimate = _bootstrapped(np.concatenate([sums, counts]), groups, statistic, settings)
    if estimate["value"] is None:
        estimate["reason"] = TOO_LARGE
    return estimate


def of_means(
    columns: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    combined: Callable[[np.ndarray], np.ndarray],
    members: np.ndarray,
    settings: Settings,
) -> Estimate:
    """A share that combines the means of measures whose rows differ, so that each is drawn apart.

    Args:
        columns: values [seeds, rows] of each measure, without gaps.
        groups: the labels of the rows of each.
        combined: maps the means [..., measures] to [...].
        members: the labels of all rows that count.
        settings: config section ``score``.
    """
    by_seed = combined(np.stack([values.mean(axis=1) for values in columns], axis=-1))
    draws = [
        bootstrap_means(values.mean(axis=0)[:, None], labels, settings["bootstrap"], seed)
        for seed, (values, labels) in enumerate(zip(columns, groups, strict=True))
    ]
    confidence = settings["confidence"]
    interval = percentiles(combined(np.concatenate(draws, axis=1)), confidence)
    interval = with_width(interval, min(map(distinct, groups)), confidence, SHARE)
    return estimated(by_seed, len(members), interval, distinct(members))


def harmonic(means: np.ndarray) -> np.ndarray:
    """Harmonic mean over the last axis; 0 if one of them is 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(means.shape[-1] / (1 / means).sum(axis=-1))


def spread(values: list[float]) -> float | None:
    """Sample standard deviation, None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def without_gaps(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with a number in every seed, and their groups."""
    whole = ~np.isnan(values).any(axis=0)
    return values[:, whole], groups[whole]


def _bootstrapped(
    columns: np.ndarray,
    groups: np.ndarray,
    by_seed: Callable[[np.ndarray], np.ndarray],
    settings: Settings,
    bounds: Bounds | None = None,
) -> Estimate:
    """A statistic of row means: `columns` is [k, rows], `by_seed` maps [..., k] to [..., seeds]."""
    value = by_seed(columns.mean(axis=1))
    interval = bootstrap(
        columns.T,
        groups,
        lambda means: by_seed(means).mean(axis=-1),
        settings["bootstrap"],
        settings["confidence"],
        bounds,
    )
    return estimated(value, len(groups), interval, distinct(groups))


def distinct(groups: np.ndarray) -> int:
    """The number of groups."""
    return len(np.unique(groups))


def estimated(
    seeds: np.ndarray, n: int, interval: Interval | None, groups: int | None = None
) -> Estimate:
    """The estimate whose value is the mean of one value per seed.

    Args:
        seeds: the value of each seed.
        n: number of rows that count.
        interval: the interval of the mean; None: there is none.
        groups: number of groups that the rows form; None: each row is one.
    """
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
    if groups is not None and groups < n:
        estimate["groups"] = groups
    if len(seeds) > 1:
        estimate["per_seed"] = [rounded(one) for one in seeds.tolist()]
    return estimate
