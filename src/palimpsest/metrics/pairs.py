"""Methods of one report against each other, row by row.

Rows are paired by id: both methods answered the same questions. The unit is the group (see
`palimpsest.metrics.parts.independent`), whose rows and seeds count together, so neither copies of
rows nor further seeds make a difference more certain. The test is of these models on other rows of
the kind, not of further trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from palimpsest.metrics.compare import change_bounds
from palimpsest.metrics.estimates import Estimate, mean, rounded
from palimpsest.metrics.frames import by_seed, groups_of
from palimpsest.metrics.intervals import bootstrap_means, by_group
from palimpsest.metrics.measures import columns

if TYPE_CHECKING:
    import pandas as pd

BETTER, WORSE, ALIKE = "better", "worse", "not told apart"
"""What a test says of a method against another one."""
RESAMPLES = 10_000
"""Draws behind the p-value of a mean: the smallest is 2 / 10,001."""
DRAWS = 1000
"""Draws behind an interval."""


@dataclass(frozen=True)
class Question:
    """A column of rows.parquet by which methods are compared."""

    block: str
    column: str
    better: str
    """``low`` or ``high``."""
    label: str


QUESTIONS = (
    Question("forget", "recall", "low", "Recalled, to forget"),
    Question("forget_unseen", "recall", "low", "Recalled, unseen wording"),
    Question("forget", "garbled", "low", "Garbled, to forget"),
    Question("forget", "known", "low", "Still known"),
    Question("retain", "recall", "high", "Recalled, to keep"),
    Question("general", "mean_logprob", "high", "General likelihood"),
)


@dataclass(frozen=True)
class Pair:
    """One method against another by one question."""

    question: Question
    method: str
    other: str
    change: Estimate
    """Mean of method minus other, with its interval."""
    p: float
    """Two-sided p-value of no difference."""
    adjusted: float = 1.0
    """The same after Holm's correction over all pairs of the question."""
    verdict: str = ALIKE
    """What the corrected test says of `method`."""

    def turned(self) -> Pair:
        """The same pair, said of the other method."""
        turned = {BETTER: WORSE, WORSE: BETTER, ALIKE: ALIKE}[self.verdict]
        value, ends = self.change["value"], self.change["ci95"]
        ci95 = None if ends is None else [-ends[1], -ends[0]]
        change = {**self.change, "value": -value, "ci95": ci95}
        return replace(self, method=self.other, other=self.method, change=change, verdict=turned)


def pairs(frames: Mapping[str, pd.DataFrame], confidence: float) -> list[Pair]:
    """Every pair of methods by every question that both have rows for.

    Args:
        frames: method -> its rows.parquet.
        confidence: level of the intervals; a verdict needs an adjusted p below the rest to 1.
    """
    found: list[Pair] = []
    for question in QUESTIONS:
        sides = {
            method: (values, groups_of(frame, question.block, values.columns))
            for method, frame in frames.items()
            if (values := by_seed(frame, question.block, question.column)) is not None
        }
        tested = [
            pair
            for method, other in itertools.combinations(sides, 2)
            if (pair := _pair(question, method, other, sides, confidence)) is not None
        ]
        corrected = holm([pair.p for pair in tested])
        found += [
            _judged(pair, adjusted, 1 - confidence)
            for pair, adjusted in zip(tested, corrected, strict=True)
        ]
    return found


def p_value(one: np.ndarray, other: np.ndarray, groups: np.ndarray, counted: bool) -> float:
    """Two-sided p-value of no difference between values [seeds, rows]; `counted`: 0 and 1."""
    if not counted:
        return bootstrapped(one.mean(axis=0) - other.mean(axis=0), groups)
    # Sums over seeds, brought to one scale, are whole numbers.
    whole = one.sum(axis=0) * len(other) - other.sum(axis=0) * len(one)
    return sign_flips(by_group(whole[:, None], groups)[0][:, 0])


def sign_flips(whole: np.ndarray) -> float:
    """Exact two-sided p-value of the sum of whole numbers whose signs are a coin's.

    For -1, 0 and 1 this is McNemar's exact test (the sign test of the discordant pairs).
    """
    numbers = np.rint(whole).astype(int)
    numbers //= max(1, int(np.gcd.reduce(numbers)))
    sizes = np.abs(numbers[numbers != 0])
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes:
        # Both ends stay empty until the last number, so that nothing wraps around.
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    as_far = np.abs(np.arange(-total, total + 1)) >= abs(int(numbers.sum()))
    return min(1.0, float(chances[as_far].sum()))


def bootstrapped(changes: np.ndarray, groups: np.ndarray) -> float:
    """Two-sided p-value of a mean change of 0: twice the share of draws beyond it."""
    draws = bootstrap_means(changes[:, None], groups, RESAMPLES)[:, 0]
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order of the given ones."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _pair(
    question: Question,
    method: str,
    other: str,
    sides: Mapping[str, tuple[pd.DataFrame, np.ndarray]],
    confidence: float,
) -> Pair | None:
    (one, groups), (two, _) = sides[method], sides[other]
    shared = one.columns.isin(two.columns)
    column = next((c for c in columns() if c.name == question.column), None)
    if not shared.any() or column is None:
        return None
    rows, groups = one.columns[shared], groups[shared]
    ours, theirs = one[rows].to_numpy(), two[rows].to_numpy()
    p = p_value(ours, theirs, groups, pa.types.is_boolean(column.type))
    settings = {"confidence": confidence, "bootstrap": DRAWS}
    change = (ours.mean(axis=0) - theirs.mean(axis=0))[None]
    estimate = mean(change, groups, settings, bounds=change_bounds(column))
    return Pair(question, method, other, estimate, rounded(p))


def _judged(pair: Pair, adjusted: float, level: float) -> Pair:
    change = pair.change["value"]
    verdict = ALIKE
    if adjusted < level and change:
        verdict = BETTER if (change < 0) == (pair.question.better == "low") else WORSE
    return replace(pair, adjusted=rounded(adjusted), verdict=verdict)
