"""Whether a model meets acceptance criteria: each condition by its interval, three-valued.

A condition passes if its whole interval meets the limit, fails if all of it violates it, and is
undecided else, with the rows that would decide it. What was not measured is not tested, which is
never a pass. Compared are the value itself, its difference to a reference, or its ratio to one.
Both models answered the same rows, so their intervals are put together with the correlation of the
rows (`palimpsest.metrics.mover`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from palimpsest.attacks import UNATTACKED
from palimpsest.metrics.asked import kind_of
from palimpsest.metrics.declaration import Measure
from palimpsest.metrics.estimates import Estimate, missing, rate, rounded
from palimpsest.metrics.frames import by_seed, groups_of
from palimpsest.metrics.intervals import Interval, wilson
from palimpsest.metrics.measures import measures_of
from palimpsest.metrics.mover import Side, correlation, difference, exact, ratio
from palimpsest.metrics.names import RECOVERABLE

if TYPE_CHECKING:
    import pandas as pd

PASS, FAIL, UNDECIDED, NOT_TESTED = "pass", "fail", "undecided", "not tested"
ORDER = (FAIL, UNDECIDED, NOT_TESTED, PASS)
"""The outcome of several is the first of these that one of them has."""
ORIGINAL, RETRAINED = "original", "retrained"
MOST_ROWS = 1_000_000
"""More rows than these are not proposed."""


@dataclass(frozen=True)
class Model:
    """What was measured of one model."""

    name: str
    """The method, ``original`` or ``retrained``."""
    metrics: Mapping[str, Any]
    """Of its eval.json."""
    rows: pd.DataFrame
    """rows.parquet."""
    robust: Mapping[str, Any]
    """robust.json."""


@dataclass(frozen=True)
class Compared:
    """What a condition looks at, and how its interval would be with other rows."""

    value: float
    at: Callable[[int], Interval | None]
    """Interval with a number of independent rows; None: there is none."""
    interval: Interval | None
    n: int


def verdict(
    criteria: Mapping[str, Any],
    model: Model,
    references: Mapping[str, Model],
    confidence: float,
) -> dict[str, Any]:
    """Judge a model, and beside it the references.

    Args:
        criteria: an entry of ``criteria``, by itself.
        model: the model.
        references: `original`, and `retrained` where the subject has one.
        confidence: level of the intervals.

    Returns:
        The part of verdict.json that is decided here (docs/attacks.md).
    """
    judged = _judged(criteria, model, references, confidence)
    beside = {
        name: _judged(criteria, one, references, confidence) for name, one in references.items()
    }
    unusable = None
    if beside.get(RETRAINED, judged)["outcome"] == FAIL and RETRAINED in beside:
        unusable = (
            "retrained, which never learned what is forgotten, fails these criteria "
            f"({beside[RETRAINED]['says']}): they cannot be met for this subject"
        )
    elif beside[ORIGINAL]["outcome"] != FAIL and judged["outcome"] == PASS:
        unusable = (
            "original, from which nothing was forgotten, does not fail these criteria "
            f"({beside[ORIGINAL]['outcome']}): a pass says nothing"
        )
    return judged | {
        "level": criteria["level"],
        "usable": unusable is None,
        "unusable": unusable,
        "references": {
            name: {key: one[key] for key in ("outcome", "says", "conditions")}
            for name, one in beside.items()
        }
        | ({} if RETRAINED in beside else {RETRAINED: None}),
    }


def _judged(
    criteria: Mapping[str, Any],
    model: Model,
    references: Mapping[str, Model],
    confidence: float,
) -> dict[str, Any]:
    conditions = [
        condition(one, model, references, criteria["level"], confidence)
        for one in criteria["conditions"]
    ]
    attacks = _attacks(criteria, model.robust)
    outcomes = {one["outcome"] for one in conditions}
    if attacks["missing"]:
        outcomes.add(NOT_TESTED)
    outcome = next(one for one in ORDER if one in outcomes | {PASS})
    return {
        "outcome": outcome,
        "says": _says(outcome, criteria["level"], conditions, attacks),
        "conditions": conditions,
        "attacks": attacks,
    }


def condition(
    one: Mapping[str, Any],
    model: Model,
    references: Mapping[str, Model],
    level: str,
    confidence: float,
) -> dict[str, Any]:
    """Decide one condition.

    Args:
        one: the condition, by itself.
        model: the model.
        references: as those of `verdict`.
        level: of the attacker.
        confidence: level of the intervals.
    """
    name, against = one["measure"], one["above"] or one["of"]
    own = _estimate(name, model, level)
    reference = references.get(against) if against else None
    reason = own["reason"]
    if against and reference is None:
        reason = f"the subject has no {against}"
    elif reference is not None and reason is None:
        other = _beside(name, model, reference, level, confidence)
        reason = None if other["reason"] is None else f"{against}: {other['reason']}"
        if one["of"] and one["within"] is None and other["value"] == 0:
            reason = f"the value of {against} is 0, so there is no ratio to it"
    found = None if reason else _compared(one, own, model, reference, level, confidence)
    result = {
        "measure": name,
        "says": limit_says(one),
        "limit": _limit(one)[1],
        "point": one["point"],
        "own": own["value"],
        "against": None,
        "value": None,
        "ci95": None,
        "n": own["n"],
        "outcome": NOT_TESTED,
        "rows_needed": None,
        "reason": reason,
        "attack": _by_level(model.robust, level)["worst"] if name == RECOVERABLE else None,
    }
    if found is None:
        return result
    if reference is not None:
        of_reference = _beside(name, model, reference, level, confidence)
        result["against"] = {against: of_reference["value"]}
    outcome = _outcome(one, found.value, found.interval)
    undecided = outcome == UNDECIDED
    return result | {
        "value": rounded(found.value),
        "ci95": None if found.interval is None else [rounded(end) for end in found.interval],
        "outcome": outcome,
        "rows_needed": _rows_needed(one, found) if undecided else None,
        "reason": None if found.interval or not undecided else _no_interval(against),
    }


def _no_interval(against: str | None) -> str:
    if against is None:
        return "the value has no interval"
    return f"there is no interval: the value of {against} may be 0, or one of the two has none"


def limit_says(one: Mapping[str, Any]) -> str:
    """A condition's limit in words."""
    kind, limit = _limit(one)
    words = {"at_most": "at most", "at_least": "at least", "within": "within"}[kind]
    text = f"{words} {limit:g}"
    if one["above"]:
        text += f" above {one['above']}"
    elif one["of"]:
        text += f" of {one['of']}" if kind == "within" else f" times {one['of']}"
    return text + (", by the value alone" if one["point"] else "")


def _limit(one: Mapping[str, Any]) -> tuple[str, float]:
    return next(
        (kind, one[kind]) for kind in ("at_most", "at_least", "within") if one.get(kind) is not None
    )


def _outcome(one: Mapping[str, Any], value: float, interval: Interval | None) -> str:
    """Of an interval against a limit; of the value where the condition says so."""
    if one["point"]:
        interval = value, value
    if interval is None:
        return UNDECIDED
    (kind, limit), (low, high) = _limit(one), interval
    met = {"at_most": high <= limit, "at_least": low >= limit}
    violated = {"at_most": low > limit, "at_least": high < limit}
    met["within"] = -limit <= low and high <= limit
    violated["within"] = low > limit or high < -limit
    return PASS if met[kind] else FAIL if violated[kind] else UNDECIDED


def _estimate(name: str, model: Model, level: str) -> Estimate:
    if name == RECOVERABLE:
        found: Estimate = _by_level(model.robust, level)["recoverable"]
        return found
    block, _, measure = name.rpartition(".")
    of_block = model.metrics.get(block)
    if of_block is None or measure not in of_block:
        return missing(f"{name} was not measured")
    return dict(of_block[measure])


def _beside(name: str, model: Model, reference: Model, level: str, confidence: float) -> Estimate:
    """The value of a reference; that of a share over the rows that the model reports.

    A tuned method reports no row that chose its settings; the references have all of them.
    """
    whole, measure = _estimate(name, reference, level), _measure(name)
    if measure is None or measure.column is None or measure.reduce is not rate or measure.compute:
        return whole
    block = name.rpartition(".")[0]
    ours, theirs = (by_seed(one.rows, block, measure.column.name) for one in (model, reference))
    if ours is None or theirs is None:
        return whole
    ids = theirs.columns.intersection(ours.columns)
    if not len(ids) or len(ids) == len(theirs.columns):
        return whole
    groups = groups_of(reference.rows, block, ids)
    return rate(theirs[ids].to_numpy(), groups, {"confidence": confidence})


def _by_level(robust: Mapping[str, Any], level: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = robust["by_level"][level]
    return found


def _compared(
    one: Mapping[str, Any],
    own: Estimate,
    model: Model,
    reference: Model | None,
    level: str,
    confidence: float,
) -> Compared:
    measure = _measure(one["measure"])
    yes_no = measure is not None and measure.reduce is rate and measure.compute is None
    value, n = own["value"], int(own["n"])

    def side(estimate: Estimate, rows: int | None) -> Side | None:
        return _side(estimate, rows, yes_no, confidence)

    if reference is None:

        def alone(rows: int | None) -> Interval | None:
            found = side(own, rows)
            return None if found is None else (found.low, found.high)

        return Compared(value, alone, alone(None), n)
    other = _beside(one["measure"], model, reference, level, confidence)
    paired = _pairs(measure, one["measure"], model, reference)
    as_ratio = bool(one["of"]) and one["within"] is None
    logs = as_ratio and measure is not None and not measure.share

    def both(rows: int | None) -> Interval | None:
        ours, theirs = side(own, rows), side(other, rows)
        if ours is None or theirs is None:
            return None
        if model.name == reference.name:
            # It is the reference itself: a difference of 0 follows from that and is no evidence.
            theirs = exact(other["value"])
        shared = 0.0 if paired is None else paired(rows)
        if logs:
            return _ratio_of_logs(ours, theirs, shared)
        return (ratio if as_ratio else difference)(ours, theirs, shared)

    compared = value / other["value"] if as_ratio else value - other["value"]
    return Compared(compared, both, both(None), n)


def _side(estimate: Estimate, rows: int | None, yes_no: bool, confidence: float) -> Side | None:
    """A value with its ends: as they are, or as they would be with another number of rows."""
    value, ends = estimate["value"], estimate["ci95"]
    if ends is None:
        return None
    if rows is None:
        return Side(value, *ends)
    if yes_no:
        return Side(value, *wilson(value, rows, confidence))
    narrower = math.sqrt(estimate["n"] / rows)
    return Side(*(value + narrower * (end - value) for end in (value, *ends)))


def _ratio_of_logs(one: Side, other: Side, shared: float) -> Interval | None:
    """Of measures that are no shares (perplexities): their logarithms are compared."""
    if min(one.low, other.low) <= 0:
        return None
    ours, theirs = (Side(*map(math.log, side)) for side in (one, other))
    low, high = difference(ours, theirs, shared)
    return math.exp(low), math.exp(high)


def _measure(name: str) -> Measure | None:
    block, _, measure = name.rpartition(".")
    return next((one for one in measures_of(kind_of(block)) if one.name == measure), None)


def _pairs(
    measure: Measure | None, name: str, model: Model, reference: Model
) -> Callable[[int | None], float] | None:
    """Number of rows -> how those of two models correlate; None: they are no pairs."""
    if measure is None or measure.column is None or measure.part or model is reference:
        return None
    column, block = measure.column.name, name.rpartition(".")[0]
    if column == "perplexity":
        column = "mean_logprob"  # its logarithm
    sides = [by_seed(one.rows, block, column) for one in (model, reference)]
    if sides[0] is None or sides[1] is None:
        return None
    ids = sides[0].columns.intersection(sides[1].columns)
    if not len(ids):
        return None
    ours, theirs = (side[ids].mean(axis=0).to_numpy() for side in sides if side is not None)
    yes_no = pa.types.is_boolean(measure.column.type)
    own = _estimate(name, model, "")
    independent = own.get("groups", len(ids))
    return lambda rows: correlation(ours, theirs, (rows or independent) if yes_no else math.inf)


def _rows_needed(one: Mapping[str, Any], found: Compared) -> int | None:
    """The fewest rows that would decide, if the values stayed; None: none would.

    Rows are independent ones, of both models.
    """

    def decided(rows: int) -> bool:
        return _outcome(one, found.value, found.at(rows)) != UNDECIDED

    low, high = 1, max(2, found.n)
    while not decided(high):
        low, high = high, 2 * high
        if high > MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def _attacks(criteria: Mapping[str, Any], robust: Mapping[str, Any]) -> dict[str, Any]:
    """Which attacks were run, which are weak, and which are lacking."""
    level, demanded = _by_level(robust, criteria["level"]), criteria["attacks"]
    blocks = {**robust["attacks"], **robust["form"]}
    weak = [name for name in level["tested"] if _is_weak(blocks[name], demanded["min_power"])]
    lacking = {}
    for required in demanded["require"]:
        if required not in level["tested"]:
            lacking[required] = robust["not_tested"].get(required, "not run")
        elif required in weak:
            why = blocks[required]["weak_why"] or "its power is below what the criteria ask for"
            lacking[required] = f"weak: {why}"
    return {
        "required": list(demanded["require"]),
        "tested": list(level["tested"]),
        "weak": weak,
        "missing": lacking,
        "not_tested": dict(robust["not_tested"]),
    }


def _is_weak(block: Mapping[str, Any], least: float) -> bool:
    power = block["power"]["value"]
    return block["weak"] or power is None or power < least


def _says(
    outcome: str,
    level: str,
    conditions: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Any],
) -> str:
    """The verdict in one sentence, which never says more than was tested."""
    if outcome == PASS:
        listed = ", ".join(name for name in attacks["tested"] if name not in attacks["weak"])
        return f"met at level {level} under the attacks listed: {listed or 'none'}"
    if outcome == NOT_TESTED:
        lacking = [f"{name} ({why})" for name, why in attacks["missing"].items()]
        lacking += [
            f"{one['measure']} ({one['reason']})"
            for one in conditions
            if one["outcome"] == NOT_TESTED
        ]
        return f"not tested: {'; '.join(lacking)}"
    found = "; ".join(_condition_says(one) for one in conditions if one["outcome"] == outcome)
    return f"{'failed' if outcome == FAIL else 'undecided'}: {found}"


def _condition_says(one: Mapping[str, Any]) -> str:
    ends = one["ci95"]
    interval = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    attack = f", by {one['attack']}" if one["attack"] not in (None, UNATTACKED) else ""
    needed = ""
    if one["outcome"] == UNDECIDED:
        rows = one["rows_needed"]
        needed = f", {rows} rows needed" if rows else ", no number of rows decides it"
    own = "" if one["against"] is None else f" (its value {one['own']:.2f})"
    return f"{one['measure']} {one['value']:.2f}{interval}{own}, {one['says']}{attack}{needed}"
