"""Chooses settings among the trials of a search: arithmetic over the rows that choose.

A *point* is one trial at one scale. Among points that meet every condition (they are *feasible*)
the excess e = max(0, forget - floor) counts, where the floor is what `retrained`, which never
learned the facts, recalls; else 0. Below the floor is no merit. Of the points whose e lies within
one standard error of the lowest, the one with the highest recall of what is kept is chosen; then
the one that draws the fewest rows, then the lower trial, then the smaller scale. If no point is
feasible, the one that violates the conditions least is, and is marked.

Conditions compare means over the same rows, so ratios and differences are paired. Their intervals
are percentile bootstraps over groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from palimpsest.errors import UserError
from palimpsest.metrics.estimates import rounded
from palimpsest.metrics.intervals import bootstrap_means, is_point, percentiles, unseen
from palimpsest.metrics.tradeoffs import pareto

COLUMNS = {"recall_rate": "recall", "degenerate_rate": "degenerate", "accuracy": "accuracy"}
"""Measure -> the column of the rows that it is the mean of."""

NOTHING = 1e-12
"""Differences below this are rounding."""


@dataclass(frozen=True)
class Measured:
    """The rows that choose, measured with one model."""

    values: Mapping[tuple[str, str], np.ndarray]
    """(part, column) -> a value for each row that has one, in the order of ids."""
    groups: Mapping[tuple[str, str], np.ndarray]
    """The same -> the group of each row."""
    ids: Mapping[tuple[str, str], Sequence[str]]

    def mean(self, measure: str) -> float | None:
        """Of ``part.measure``; None where no row has it."""
        values = self.values.get(place_of(measure))
        return None if values is None or not len(values) else float(values.mean())


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    name: str
    number: int
    settings: Mapping[str, Any]
    status: str
    reason: str | None
    seconds: float
    optimizer_rows: int
    points: Mapping[float, Measured]
    """Scale -> what was measured; empty if it was stopped."""


@dataclass(frozen=True)
class Point:
    """One trial at one scale, and what the criterion makes of it."""

    trial: Trial
    scale: float
    values: Mapping[str, float | None]
    """``forget``, ``retain``, ``general`` and ``degenerate``."""
    excess: float = math.inf
    violation: float = math.inf
    """By how much conditions are missed, in all; 0: it is feasible."""
    missed: Sequence[str] = ()
    x: float | None = None
    y: float | None = None
    front: bool = False

    @property
    def feasible(self) -> bool:
        """Whether it meets all conditions."""
        return self.violation == 0.0

    @property
    def last(self) -> tuple[int, int, float]:
        """Which of equal points comes first: the cheaper one, the earlier one, the smaller one."""
        return self.trial.optimizer_rows, self.trial.number, self.scale


@dataclass(frozen=True)
class Choice:
    """What a search found."""

    points: Sequence[Point]
    stopped: Sequence[Trial]
    chosen: Point
    why: str
    trial0: Point | None = field(default=None)
    """The entry's own point; None if its training was stopped."""


def place_of(measure: str) -> tuple[str, str]:
    """Part and column of ``part.measure``."""
    part, _, name = measure.partition(".")
    return part, COLUMNS[name]


def choose(
    trials: Sequence[Trial],
    original: Measured,
    retrained: Measured | None,
    criterion: Mapping[str, Any],
    confidence: float,
    resamples: int,
) -> Choice:
    """Choose among trials, in any order.

    Args:
        trials: all of a plan.
        original: the subject on the same rows.
        retrained: a model that never learned the facts, if there is one.
        criterion: ``keep``, ``minimise`` and ``bound`` (`palimpsest.config.tuning.Criterion`).
        confidence: level of the intervals.
        resamples: draws behind one.

    Raises:
        UserError: every trial was stopped.
    """
    trials = sorted(trials, key=lambda one: one.number)
    stopped = [one for one in trials if not one.points]
    points = judged(trials, original, retrained, criterion, confidence, resamples)
    feasible = [point for point in points if point.feasible]
    own = next((p for p in points if p.trial.number == 0 and p.scale == 1.0), None)
    if not feasible:
        chosen = min(points, key=lambda p: (p.violation, p.excess, -_number(p, "retain"), p.last))
        why = (
            "no point meets all conditions; this one misses them least "
            f"({'; '.join(chosen.missed)})"
        )
        return Choice(points, stopped, chosen, why, own)
    best = min(feasible, key=lambda point: (point.excess, point.last))
    n = len(original.values["forget", "recall"])
    margin = best.excess + standard_error(best.values["forget"] or 0.0, n) + NOTHING
    near = [point for point in feasible if point.excess <= margin]
    chosen = min(near, key=lambda point: (-_number(point, "retain"), point.last))
    why = (
        f"of {len(feasible)} points that meet all conditions, {len(near)} lie within one standard "
        f"error of the lowest excess ({best.excess:.3g} to {margin:.3g}); this one keeps most"
    )
    return Choice(points, stopped, chosen, why, own)


def judged(
    trials: Sequence[Trial],
    original: Measured,
    retrained: Measured | None,
    criterion: Mapping[str, Any],
    confidence: float,
    resamples: int,
) -> list[Point]:
    """Every point of some trials, in their order, with what the criterion makes of it.

    The arguments are those of `choose`.

    Raises:
        UserError: every trial was stopped.
    """
    if not any(one.points for one in trials):
        raise UserError(
            f"all {len(trials)} trials were stopped, so there is nothing to choose: "
            f"{trials[0].name}: {trials[0].reason}; lower the learning rate of the entry, or "
            "name a `space`"
        )
    references = {"original": original, "retrained": retrained}
    points = [
        _judged(_point(one, scale), measured, references, criterion, confidence, resamples)
        for one in trials
        for scale, measured in sorted(one.points.items())
    ]
    return _with_front([_placed(point, original, _floor(retrained)) for point in points])


def worth(trial: Trial, points: Sequence[Point]) -> float:
    """What a second round looks for where it is low: a trial's least excess, from 0 to 1.

    Without a feasible point 1 plus its least violation; infinity if the trial was stopped.
    """
    own = [point for point in points if point.trial is trial]
    return min(
        (point.excess if point.feasible else 1.0 + point.violation for point in own),
        default=math.inf,
    )


def standard_error(share: float, n: int) -> float:
    """Of a share of `n` rows, with a row of each kind added, so that none is certain."""
    smoothed = (share * n + 1) / (n + 2)
    return math.sqrt(smoothed * (1 - smoothed) / n)


def rows_needed(condition: Mapping[str, Any], bound: str, confidence: float) -> int:
    """Rows with which a condition can be met by a model that answers as `original` does.

    ``point``: one row alone then does not decide. ``lower``: with these the interval of
    no difference at all (`palimpsest.metrics.intervals.unseen`) meets the limit. Both are about
    shares of rows; of an accuracy every token counts, and two rows have an interval.
    """
    if place_of(condition["measure"])[1] == "accuracy":
        return 2
    if condition.get("at_least") is not None:
        room = 1.0 - condition["at_least"]
    else:
        room = condition["at_most"]
    if room <= 0 or room >= 1:
        return 1
    if bound == "point":
        return math.ceil(1 / room - 1e-9)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return math.ceil(z * z * (1 - room) / room - 1e-9)


def refuse_few_rows(
    criterion: Mapping[str, Any], rows: Mapping[str, Sequence[str]], confidence: float
) -> None:
    """Refuse a criterion that the rows cannot decide.

    Args:
        criterion: ``keep`` and ``bound``.
        rows: part -> ids of the rows that choose.
        confidence: level of the intervals.

    Raises:
        UserError: a condition has too few rows; says how many are needed.
    """
    for condition in criterion["keep"]:
        part, _ = place_of(condition["measure"])
        needed = rows_needed(condition, criterion["bound"], confidence)
        count = len(rows.get(part, ()))
        if 0 < count < needed:
            limit = "at_least" if condition.get("at_least") is not None else "at_most"
            other = "" if criterion["bound"] == "point" else ", set `bound: point`"
            raise UserError(
                f"{count} rows of validate_on.{part} choose, and the condition "
                f"{condition['measure']} {limit} {condition[limit]:g} needs {needed} "
                f"(bound: {criterion['bound']}); add rows, loosen the limit{other}, or leave the "
                "condition out"
            )


def _point(trial: Trial, scale: float) -> Point:
    measured = trial.points[scale]
    names = {
        "forget": "forget.recall_rate",
        "retain": "retain.recall_rate",
        "general": "general.accuracy",
        "degenerate": "forget.degenerate_rate",
    }
    return Point(trial, scale, {key: measured.mean(name) for key, name in names.items()})


def _judged(
    point: Point,
    measured: Measured,
    references: Mapping[str, Measured | None],
    criterion: Mapping[str, Any],
    confidence: float,
    resamples: int,
) -> Point:
    violation, missed = 0.0, []
    for condition in criterion["keep"]:
        of = condition.get("of") or condition.get("above")
        other = references.get(of) if of else None
        if place_of(condition["measure"]) not in measured.values or (of and other is None):
            continue  # the scenario has no such rows, or the subject no such model
        found = compared(condition, measured, other, criterion["bound"], confidence, resamples)
        by = _missed_by(condition, found)
        if by:
            violation += by
            missed.append(_says(condition, found))
    return replace(point, violation=violation, missed=missed)


def compared(
    condition: Mapping[str, Any],
    measured: Measured,
    other: Measured | None,
    bound: str,
    confidence: float,
    resamples: int,
) -> float | None:
    """What a condition looks at: the value, its ratio or difference to another model's.

    With the bound ``lower`` the worse end of its interval; None where there is no number.
    """
    place = place_of(condition["measure"])
    columns = [measured.values[place]]
    if other is not None:
        columns.append(other.values[place])
        if list(measured.ids[place]) != list(other.ids[place]):
            raise UserError(
                f"the rows of {place[0]} that were measured differ between trials and references; "
                "run the same command again"
            )
    table = np.column_stack(columns)
    value = _statistic(condition, table.mean(axis=0)[None])[0]
    if not math.isfinite(value):
        return None
    if bound == "point":
        return float(value)
    draws = bootstrap_means(table, measured.groups[place], resamples)
    interval = percentiles(_statistic(condition, draws), confidence)
    if interval is None:
        return None
    if is_point(interval):
        # All rows are alike: as many of another kind may be unseen.
        width = unseen(len(np.unique(measured.groups[place])), confidence)
        interval = interval[0] - width, interval[1] + width
    return interval[0] if condition.get("at_least") is not None else interval[1]


def _statistic(condition: Mapping[str, Any], means: np.ndarray) -> np.ndarray:
    if means.shape[1] == 1:
        return means[:, 0]
    if condition.get("above"):
        return means[:, 0] - means[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(means[:, 1] > 0, means[:, 0] / means[:, 1], np.nan)


def _missed_by(condition: Mapping[str, Any], value: float | None) -> float:
    if value is None:
        return math.inf
    if condition.get("at_least") is not None:
        by = condition["at_least"] - value
    else:
        by = value - condition["at_most"]
    return by if by > NOTHING else 0.0


def _says(condition: Mapping[str, Any], value: float | None) -> str:
    limit = "at_least" if condition.get("at_least") is not None else "at_most"
    shown = "no number" if value is None else f"{value:.3g}"
    return f"{condition['measure']} {shown}, {limit} {condition[limit]:g}"


def _floor(retrained: Measured | None) -> float:
    found = None if retrained is None else retrained.mean("forget.recall_rate")
    return found or 0.0


def _placed(point: Point, original: Measured, floor: float) -> Point:
    """With its excess, and its place among forgotten (x) and kept (y), both from 0 to 1."""
    forget, retain = point.values["forget"], point.values["retain"]
    if forget is None:
        return point
    excess = max(0.0, forget - floor)
    before = max(0.0, (original.mean("forget.recall_rate") or 0.0) - floor)
    kept = original.mean("retain.recall_rate")
    x = 1.0 - excess / before if before else 1.0
    y = None if retain is None or not kept else _cut(retain / kept)
    return replace(point, excess=excess, x=_cut(x), y=y)


def _cut(share: float) -> float:
    return min(1.0, max(0.0, share))


def _number(point: Point, name: str) -> float:
    value = point.values[name]
    return -1.0 if value is None else value


def _with_front(points: Sequence[Point]) -> list[Point]:
    """Points, with those marked that no other one is better than in both x and y."""
    placed = [(math.nan if p.x is None else p.x, math.nan if p.y is None else p.y) for p in points]
    return [replace(p, front=on) for p, on in zip(points, pareto(placed), strict=True)]


def values_of(point: Point) -> dict[str, float | None]:
    """The values of a point, rounded for a file."""
    return {k: None if v is None else rounded(v) for k, v in point.values.items()}
