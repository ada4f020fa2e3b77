"""The ``lm_eval`` block of eval.json, from the results of lm-eval for every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from palimpsest.errors import UserError
from palimpsest.metrics.estimates import Estimate, estimated, missing
from palimpsest.metrics.intervals import Interval, wilson

NOTED = ("version", "shots", "limit")
"""Keys of a task beside its metrics."""

Result = Mapping[str, Any]


def lm_eval_block(
    seeds: Mapping[str, Result], tasks: Sequence[str], confidence: float
) -> dict[str, dict[str, Any]]:
    """Task -> metric -> measure, with the task's version, shots and limit.

    Args:
        seeds: file -> its contents, the ``lm_eval.json`` of every seed.
        tasks: the scenario's tasks.
        confidence: level of the intervals.

    Raises:
        UserError: a file lacks a task.
    """
    block = {}
    for task in tasks:
        for path, seed in seeds.items():
            if task not in seed["tasks"]:
                raise UserError(f"{path} has no task '{task}'; delete it and run again")
        entries = [seed["tasks"][task] for seed in seeds.values()]
        block[task] = {
            metric: _estimate([entry["metrics"].get(metric) for entry in entries], n, confidence)
            for n in [entries[0]["samples"]]
            for metric in entries[0]["metrics"]
        } | {name: entries[0][name] for name in NOTED}
    return block


def _estimate(results: Sequence[Result | None], n: int, confidence: float) -> Estimate:
    values = [result["value"] for result in results if result is not None]
    if len(values) < len(results) or None in values:
        return missing("lm-eval gives no number", n)
    errors = [result["stderr"] for result in results if result is not None]
    return estimated(np.array(values), n, _interval(values, errors, n, confidence))


def _interval(
    values: Sequence[float], errors: Sequence[float | None], n: int, confidence: float
) -> Interval | None:
    """Wilson's for a share of yes/no rows, else the normal one of lm-eval's standard error."""
    numbers = [error for error in errors if error is not None]
    if len(numbers) < len(errors):
        return None
    value = fmean(values)
    if n > 1 and all(_is_share(v, e, n) for v, e in zip(values, numbers, strict=True)):
        return wilson(value, n, confidence)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * fmean(numbers)
    return value - half, value + half


def _is_share(value: float, error: float, n: int) -> bool:
    # Only the mean of n zeros and ones has this standard error; lm-eval calls other things "acc".
    return 0 <= value <= 1 and math.isclose(
        error, math.sqrt(value * (1 - value) / (n - 1)), rel_tol=1e-6, abs_tol=1e-9
    )
