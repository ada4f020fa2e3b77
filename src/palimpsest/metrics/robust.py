"""What comes back under attack: one honest number for a method, from the tables of its attacks.

For row i, attack a and setting s: u is the value of the method, g that of the control (`retrained`,
which never saw the rows), o that of `original`; a = ask is the question without an attack::

    s_m(a, h)   for each model m by itself the setting with the highest mean on half h
    u_a(i)      = u_{a, s_u(a, other half of i)}(i), likewise g and o: no row chooses for itself
    gap_a       = mean_i [u_a(i) - g_a(i)]
    room_a      = mean_i [o_ask(i) - g_ask(i)]; in its own unit where an attack has one
    rec_a       = gap_a / room_a
    power_a     = mean_i [o_a(i) - g_a(i)] / room_a
    recoverable = mean over h of rec_{a*(h)} on the other half, a*(h) = argmax_a rec_a on half h

0: as if it had never been taught; 1: all of it. Nothing is cut off at either end. The worst of many
attacks would find something where nothing is; the halves keep it from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from palimpsest.attacks import LEVELS, MEMBER, UNATTACKED
from palimpsest.metrics.estimates import Estimate, estimated, missing, rounded
from palimpsest.metrics.intervals import Interval
from palimpsest.metrics.mover import difference, exact, paired, share

MIN_ROOM = 0.3
"""Where the lower end of the room is below, there is little to recover."""
MIN_POWER = 0.5
"""An attack below may expose a model, and is not one that was withstood."""
RETRAINED, CHANCE = "retrained", "chance"
"""Controls: a model that never learned the rows; a guess among a row's own answers."""
FORM = "form"
"""Unit of what files give away, which is no property of the weights."""
SHARED_ROOM = ("recall", FORM)
"""Units whose room is that of the question without an attack."""
WEIGHTS_IN_HAND = LEVELS[-2]
"""Level of `recoverable` itself: who may also train. The last level is about files."""
NO_ROWS = "no row has a value of every model (training diverged, or each asked other rows)"
NO_CONTROL = "no control: the subject has no `retrained`, which never learned the rows"


@dataclass(frozen=True)
class Rows:
    """The rows to forget, in the order of all values."""

    ids: tuple[str, ...]
    halves: np.ndarray
    """0 or 1 for each row."""
    groups: np.ndarray
    """Label of those that belong together."""

    def half(self, number: int) -> np.ndarray:
        """Which rows are in a half."""
        half: np.ndarray = self.halves == number
        return half


@dataclass(frozen=True)
class Trial:
    """One attack on the models of a subject: values [rows, settings], NaN where a row has none."""

    name: str
    unit: str
    level: str
    settings: tuple[str, ...]
    method: tuple[np.ndarray, ...]
    """One table for each seed."""
    original: np.ndarray
    control: np.ndarray | None = None
    """Of `retrained`; None: the subject has none."""
    chance: float | None = None
    """Of guessing right, where the values are choices; the control of last resort."""
    diverged: tuple[str, ...] = ()
    """Settings whose training diverged on a seed of the method: they say nothing of it."""
    feeble: str = ""
    """Why the attack is too feeble to say anything, whatever it finds in `original`."""
    why: str = ""
    """Why a model has no value at all."""
    lacking: Mapping[int, str] = field(default_factory=dict)
    """Place of a seed of the method without any value -> which it is, and why; others have some."""

    @property
    def nothing(self) -> str:
        """Why nothing can be found where no row has a value of every model."""
        if self.why:
            return self.why
        return NO_CONTROL if self.control is None and self.chance is None else NO_ROWS


@dataclass(frozen=True)
class Choice:
    """The values of one model under an attack, its setting chosen on the other half."""

    values: np.ndarray
    settings: tuple[str, str]
    """Chosen on half 0, and on half 1."""


def crossfitted(values: np.ndarray, settings: Sequence[str], rows: Rows) -> Choice:
    """Choose a model's setting on each half, and take the value of each row from the other's.

    A row that has no value under that setting (its training diverged, or the setting does not fit
    the row) has that of the next best one.

    Args:
        values: [rows, settings], NaN where a row has none.
        settings: names, sorted: of equal ones the first is chosen.
        rows: their halves.
    """
    if len(settings) == 1:
        return Choice(values[:, 0], (settings[0], settings[0]))
    taken = np.full(len(values), np.nan)
    best = ["", ""]
    for half in (0, 1):
        order = _ranked(values[rows.half(half)])
        best[half] = settings[order[0]] if len(order) else ""
        for place in reversed(order):
            there = rows.half(1 - half) & ~np.isnan(values[:, place])
            taken[there] = values[there, place]
    return Choice(taken, (best[0], best[1]))


def _ranked(values: np.ndarray) -> list[int]:
    """Columns by their means, the highest first; those without any value last."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0).sum(axis=0)
    means = np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), -1)
    return [int(place) for place in np.argsort(-means, kind="stable")]


@dataclass(frozen=True)
class Finding:
    """What one attack found, before any attack is chosen."""

    trial: Trial
    rows: Rows
    confidence: float
    control: str
    """`RETRAINED` or `CHANCE`."""
    method: tuple[Choice, ...]
    """For each seed; of one that lacks values it says nothing."""
    original: Choice
    reference: Choice
    """Of the control."""
    prior: Choice
    """What there was: `original`, without the attack."""
    nothing: Choice
    """The control's values without the attack."""
    own: bool
    """Whether the method is the control itself."""

    @cached_property
    def there(self) -> list[int]:
        """Places of the seeds that have values."""
        return [place for place in range(len(self.method)) if place not in self.trial.lacking]

    @cached_property
    def seeds(self) -> list[Choice]:
        """What those seeds have."""
        return [self.method[place] for place in self.there]

    @cached_property
    def known(self) -> np.ndarray:
        """Which rows have a value of every model."""
        sides = [*self.seeds, self.original, self.reference, self.prior, self.nothing]
        return ~np.isnan(np.stack([side.values for side in sides])).any(axis=0)

    @property
    def groups(self) -> np.ndarray:
        """Labels of those rows."""
        return self.rows.groups[self.known]

    @cached_property
    def room_ends(self) -> Interval:
        """Interval of the room."""
        return self._between(self.prior, self.nothing, self.confidence, same=False)

    @cached_property
    def room(self) -> Estimate:
        """What there is to recover."""
        return self._estimate([self._mean(self.prior, self.nothing)], self.room_ends)

    @cached_property
    def gap(self) -> Estimate:
        """What the attack finds above the control."""
        return self._estimate(self._gaps, self.ends(self.confidence))

    @cached_property
    def recovered(self) -> Estimate:
        """The gap as a share of the room."""
        low, value = self.room_ends[0], self.room["value"]
        if low < MIN_ROOM:
            unit = "" if self.trial.unit in SHARED_ROOM else f" in the unit {self.trial.unit}"
            return missing(
                f"little to recover{unit}: original is {value:.2f} above the control, and the "
                f"lower end of that, {low:.2f}, is below {MIN_ROOM}",
                int(self.known.sum()),
            )
        gaps = [gap / self._mean(self.prior, self.nothing) for gap in self._gaps]
        return self._estimate(gaps, (self.lower(self.confidence), self.upper(self.confidence)))

    @cached_property
    def power(self) -> Estimate:
        """What the attack finds where all is there; in a unit of its own, of what there can be."""
        shared = self.trial.unit in SHARED_ROOM
        most = self.room["value"] if shared else 1 - self.reference.values[self.known].mean()
        if most <= 0:
            return missing("original is not above the control", int(self.known.sum()))
        return self._estimate([self._mean(self.original, self.reference) / most], None)

    @cached_property
    def by_half(self) -> np.ndarray:
        """rec_a [seeds, 2] on each half; NaN where a half has no rows or room, or a seed none."""
        halves = [self.known & self.rows.half(half) for half in (0, 1)]
        rooms = np.array([self._mean(self.prior, self.nothing, half) for half in halves])
        gaps = [[self._mean(one, self.reference, half) for half in halves] for one in self.method]
        values = np.array(gaps)
        return np.divide(values, rooms, out=np.full(values.shape, np.nan), where=rooms > 0)

    @property
    def filled(self) -> np.ndarray:
        """`by_half` with the others' mean for a seed without a value: it has not withstood."""
        values = self.by_half.copy()
        values[[*self.trial.lacking]] = values[self.there].mean(axis=0)
        return values

    @property
    def counts(self) -> bool:
        """Whether the attack can be the worst one."""
        return self.recovered["value"] is not None and not np.isnan(self.by_half[self.there]).any()

    def weak(self) -> str | None:
        """Why it says nothing where it finds nothing; None: it would have found something."""
        if not self.counts:
            return self.recovered["reason"] or "no value on both halves of the rows"
        if self.trial.lacking:
            return f"no value of {'; '.join(self.trial.lacking.values())}"
        if set(self.trial.settings) <= set(self.trial.diverged):
            return "its training diverged"
        if self.trial.diverged and self.lower(self.confidence) <= 0:
            return f"its training diverged at {len(self.trial.diverged)} of its settings"
        power = self.power["value"]
        if power is None:
            return str(self.power["reason"])
        if power < MIN_POWER:
            return f"power {power:.2f}: it finds little even in original"
        return self.trial.feeble or None

    def ends(self, confidence: float) -> Interval:
        """Ends of the gap: the mean over seeds of theirs."""
        ends = [self._between(one, self.reference, confidence, self.own) for one in self.seeds]
        low, high = np.mean(ends, axis=0)
        return float(low), float(high)

    def lower(self, confidence: float) -> float:
        """Lower end of rec_a."""
        low, high = self.room_ends
        end = self.ends(confidence)[0]
        return end / (high if end >= 0 else low)

    def upper(self, confidence: float) -> float:
        """Upper end of rec_a."""
        low, high = self.room_ends
        end = self.ends(confidence)[1]
        return end / (low if end >= 0 else high)

    @cached_property
    def _gaps(self) -> list[float]:
        return [self._mean(one, self.reference) for one in self.seeds]

    def _mean(self, one: Choice, other: Choice, of: np.ndarray | None = None) -> float:
        rows = self.known if of is None else of
        return float((one.values[rows] - other.values[rows]).mean()) if rows.any() else np.nan

    def _between(self, one: Choice, other: Choice, confidence: float, same: bool) -> Interval:
        sides = one.values[self.known], other.values[self.known]
        return gap_ends(*sides, self.groups, confidence, self.control, same)

    def _estimate(self, values: Sequence[float], interval: Interval | None) -> Estimate:
        members = len(np.unique(self.groups))
        return estimated(np.array(values), int(self.known.sum()), interval, members)


def find(
    trial: Trial, asked: Trial, rows: Rows, confidence: float, own: bool = False
) -> Finding | None:
    """What an attack found; None without a control, or where no row has a value of every model.

    Args:
        trial: the attack.
        asked: the same without one.
        rows: the rows of both.
        confidence: level of the intervals.
        own: whether the method is the control itself.
    """
    reference, control = _reference(trial, rows)
    original = crossfitted(trial.original, trial.settings, rows)
    prior, nothing = original, reference
    if trial.unit in SHARED_ROOM:
        prior = crossfitted(asked.original, asked.settings, rows)
        nothing = _reference(asked, rows)[0]
    if reference is None or nothing is None:
        return None
    method = tuple(crossfitted(values, trial.settings, rows) for values in trial.method)
    finding = Finding(
        trial, rows, confidence, control, method, original, reference, prior, nothing, own
    )
    return finding if finding.known.any() else None


def gap_ends(
    one: np.ndarray,
    other: np.ndarray,
    groups: np.ndarray,
    confidence: float,
    control: str = RETRAINED,
    same: bool = False,
) -> Interval:
    """Interval of the mean difference to the control.

    Args:
        one: a value per row.
        other: that of the control.
        groups: the label of each row's group.
        confidence: level of the two-sided interval.
        control: a chance is known exactly.
        same: both are one model: its own interval around its value, for a difference of 0 that
            follows from the construction is no evidence.
    """
    if same or control == CHANCE:
        return difference(share(one, groups, confidence), exact(float(other.mean())))
    return paired(one, other, groups, confidence)


def _reference(trial: Trial, rows: Rows) -> tuple[Choice | None, str]:
    if trial.control is not None:
        return crossfitted(trial.control, trial.settings, rows), RETRAINED
    if trial.chance is not None:
        return Choice(np.full(len(rows.ids), trial.chance), ("", "")), CHANCE
    return None, ""


@dataclass(frozen=True)
class Worst:
    """The number over a pool of attacks."""

    recoverable: Estimate
    attack: str | None
    """The worst by the value over all rows."""
    chosen: tuple[tuple[str, str], ...] = ()
    """For each seed the worst on half 0, and on half 1."""


def worst_of(findings: Iterable[Finding], confidence: float) -> Worst:
    """The worst attack, chosen on one half of the rows and read on the other.

    All lower ends must hold at once for their maximum to be one (Bonferroni); the upper end of the
    attack that is truly the worst covers by itself.
    """
    pool = sorted((one for one in findings if one.counts), key=lambda one: one.trial.name)
    if not pool:
        return Worst(missing("no attack has a value on both halves of the rows"), None)
    table = np.stack([one.filled for one in pool])
    chosen = table.argmax(axis=0)
    seeds = np.arange(table.shape[1])
    values = (table[chosen[:, 0], seeds, 1] + table[chosen[:, 1], seeds, 0]) / 2
    lower = max(one.lower(1 - (1 - confidence) / len(pool)) for one in pool)
    upper = max(one.upper(confidence) for one in pool)
    most = max(pool, key=lambda one: one.recovered["value"])
    largest = max(pool, key=lambda one: one.recovered["n"]).recovered
    return Worst(
        estimated(values, largest["n"], (lower, upper), largest.get("groups")),
        most.trial.name,
        tuple((pool[one].trial.name, pool[other].trial.name) for one, other in chosen),
    )


def assess(
    trials: Sequence[Trial], rows: Rows, confidence: float, own: bool = False
) -> dict[str, Any]:
    """`recoverable` of a method, and what each attack found.

    Args:
        trials: the attacks that were run, the question without one among them.
        rows: the rows of all.
        confidence: level of the intervals.
        own: whether the method is the control itself.

    Returns:
        The arithmetic part of robust.json (docs/attacks.md).
    """
    asked = next(trial for trial in trials if trial.name == UNATTACKED)
    found = {trial.name: find(trial, asked, rows, confidence, own) for trial in trials}
    base = found[UNATTACKED]
    reason = asked.nothing if base is None else asked.why or base.recovered["reason"]
    by_level = {level: _at(level, trials, found, reason, confidence) for level in LEVELS}
    best = by_level[WEIGHTS_IN_HAND]
    return {
        **best,
        "control": RETRAINED if base is not None and base.control == RETRAINED else None,
        "room": missing(asked.nothing) if base is None else base.room,
        "by_level": by_level,
        "attacks": {trial.name: attack_block(trial, found[trial.name], rows) for trial in trials},
    }


def allowed(trial: Trial, level: str) -> bool:
    """Whether an attacker of a level may do it: he may do all that those before him may.

    What files give away counts against an attacker who has them alone: it is no property of the
    method. Membership counts against none.
    """
    if trial.unit == MEMBER:
        return False
    if trial.unit == FORM:
        return level == LEVELS[-1]
    order: list[str] = [*LEVELS]
    return order.index(trial.level) <= order.index(level)


def _at(
    level: str,
    trials: Sequence[Trial],
    found: Mapping[str, Finding | None],
    reason: str | None,
    confidence: float,
) -> dict[str, Any]:
    """The number against an attacker of a level."""
    names = sorted(trial.name for trial in trials if allowed(trial, level))
    pool = {name: finding for name in names if (finding := found[name]) is not None}
    worst = Worst(missing(reason), None) if reason else worst_of(pool.values(), confidence)
    tested = [name for name in names if name != UNATTACKED]
    return {
        "recoverable": worst.recoverable,
        "worst": worst.attack,
        "chosen": [list(pair) for pair in worst.chosen],
        "gap": pool[worst.attack].gap if worst.attack else worst.recoverable,
        "level": level,
        "tested": tested,
        "weak": [name for name in tested if name not in pool or pool[name].weak() is not None],
    }


def attack_block(trial: Trial, finding: Finding | None, rows: Rows) -> dict[str, Any]:
    """What one attack found, as it stands in robust.json; null with a reason without a control."""
    facts: dict[str, Any] = {"unit": trial.unit, "level": trial.level}
    if finding is None:
        nothing = missing(trial.nothing)
        tables: dict[str, Sequence[np.ndarray]] = {"method": trial.method}
        tables["original"] = [trial.original]
        if trial.control is not None:
            tables["control"] = [trial.control]
        return {
            **facts,
            **dict.fromkeys(("gap", "room", "recovered", "power"), nothing),
            "control": None,
            "weak": True,
            "weak_why": nothing["reason"],
            "rates": {"control": None}
            | {name: _raw(one, trial, rows) for name, one in tables.items()},
            "chosen": {},
        }
    weak = None if trial.name == UNATTACKED else finding.weak()
    known, models = finding.known, {"original": finding.original, "control": finding.reference}
    rates = {name: float(one.values[known].mean()) for name, one in models.items()}
    rates["method"] = float(np.mean([one.values[known].mean() for one in finding.seeds]))
    return {
        **facts,
        "control": finding.control,
        "gap": finding.gap,
        "room": finding.room,
        "recovered": finding.recovered,
        "power": finding.power,
        "weak": weak is not None,
        "weak_why": weak,
        "rates": {name: rounded(rate) for name, rate in rates.items()},
        "chosen": {
            "method": [
                list(one.settings) if place in finding.there else []
                for place, one in enumerate(finding.method)
            ],
            **{name: list(one.settings) for name, one in models.items()},
        },
    }


def _raw(tables: Iterable[np.ndarray], trial: Trial, rows: Rows) -> float | None:
    """The cross-fitted rate itself, where nothing can be set against it."""
    tables = [one for one in tables if not np.isnan(one).all()]
    if not tables:
        return None
    values = np.array([crossfitted(one, trial.settings, rows).values for one in tables])
    known = ~np.isnan(values).any(axis=0)
    return rounded(float(values[:, known].mean())) if known.any() else None


def aligned(
    values: Mapping[str, Mapping[str, float]], settings: Sequence[str], ids: Sequence[str]
) -> np.ndarray:
    """Values [rows, settings] in a common order, NaN where there is none.

    Args:
        values: setting -> row -> value.
        settings: names of the columns.
        ids: of the rows.
    """
    columns = [[values.get(name, {}).get(row, np.nan) for row in ids] for name in settings]
    return np.array(columns, dtype=float).T.reshape(len(ids), len(settings))
