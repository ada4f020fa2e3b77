"""The columns of the methods table: those of the measures, lm-eval's tasks, and the cost."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.io.numbers import duration
from palimpsest.metrics.composite import BLOCK as COMPOSITE
from palimpsest.metrics.declaration import (
    FURTHER,
    HARM,
    KNOWUNDO,
    PRIVACY,
    SAMPLED,
    TEXT,
    UTILITY,
    WRAPPED,
    Comparison,
    Measure,
    Shown,
)
from palimpsest.metrics.measures import comparisons, measures, measures_of
from palimpsest.pipeline.stages import STAGES
from palimpsest.report import numbers
from palimpsest.report.inputs import Run

Value = dict[str, Any]
"""An estimate of eval.json or compare.json, see `palimpsest.metrics.estimates`."""

FORGET, KEEP, GENERAL, COST = "To forget", "To keep", "In general", "Cost"
CHANGE, MEMBERSHIP = "Against original", "Membership"
LM_EVAL = "lm-eval"
FURTHER_PARTS = "Further parts"
OF_FURTHER = ("recall_rate", "rouge_l", "truth_ratio")
"""Measures of a further part (``evaluate.further``) that have a column."""
GROUPS = {
    "forget": FORGET,
    "forget_unseen": FORGET,
    "forget_prompted": FORGET,
    "forget_chat": FORGET,
    WRAPPED: FORGET,
    SAMPLED: FORGET,
    HARM: FORGET,
    "retain": KEEP,
    "retain_unseen": KEEP,
    "retain_prompted": KEEP,
    "retain_chat": KEEP,
    UTILITY: KEEP,
    "general": GENERAL,
    TEXT: GENERAL,
    KNOWUNDO: "KnowUnDo",
    PRIVACY: MEMBERSHIP,
}
"""Block -> the head above its columns, in the order of the tables; other blocks come last."""
RETAINED = (
    "retain",
    "retain_unseen",
    "retain_prompted",
    "retain_chat",
    "general",
    UTILITY,
    TEXT,
)
"""Blocks of the rows to keep."""

FORMATS: dict[str, Callable[[float], str]] = {
    "share": numbers.percent,
    "number": numbers.decimal,
    "signed": numbers.signed,
    "change": numbers.change,
}
_ABSENT: Value = {"value": None, "reason": "not measured"}


@dataclass(frozen=True)
class Column:
    """One column: its value, its text, and which direction is better."""

    key: str
    group: str
    label: str
    better: str
    """``low``, ``high`` or empty (neither)."""
    tip: str
    text: Callable[[float], str]
    measure: Callable[[Run], Value]
    share: bool = False
    """A share between 0 and 1, drawn with its interval."""
    optional: bool = False
    """Shown only where a method of the subject has a value."""
    details: bool = False
    """Stands in the second table, which has the details."""


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """The columns to show for these methods: those in which one of them has a value."""
    return [
        column
        for column in all_columns(runs)
        if any(column.measure(run)["value"] is not None for run in runs)
    ]


def all_columns(runs: Iterable[Run]) -> list[Column]:
    """All columns: those of the measures, of each task of lm-eval, and of the cost."""
    runs = list(runs)
    tasks = {task: metrics for run in runs for task, metrics in _tasks(run).items()}
    of_tasks = [
        _lm_eval(task, metric)
        for task in sorted(tasks)
        if (metric := _main(tasks[task])) is not None
    ]
    further = dict.fromkeys(block for run in runs for block in run.eval["metrics"].get(FURTHER, ()))
    scores = dict.fromkeys(name for run in runs for name in run.eval["metrics"].get(COMPOSITE, ()))
    return [
        *measure_columns(),
        *(column for block in further for column in _further(block)),
        *(_composite(name) for name in scores),
        *of_tasks,
        *COST_COLUMNS,
    ]


@functools.cache
def measure_columns() -> tuple[Column, ...]:
    """The columns that measures declare: first table, then second; each group in one piece."""
    columns = [_column(measure, shown) for measure in measures() for shown in measure.shown]
    columns += [_compared(entry, shown) for entry in comparisons() for shown in entry.shown]
    heads = list(dict.fromkeys([CHANGE, *GROUPS.values(), *(column.group for column in columns)]))
    return tuple(sorted(columns, key=lambda c: (c.details, heads.index(c.group))))


def _column(measure: Measure, shown: Shown) -> Column:
    block, name = shown.block, measure.name
    form, group = "share" if measure.share else "number", GROUPS.get(block, block.capitalize())
    read = _worst_wrapper(name) if block == WRAPPED else _at(f"{block}.{name}")
    if shown.difference and measure.column is not None:
        form, group, read = "change", CHANGE, _difference(block, measure.column.difference)
    return Column(
        key=shown.key or f"{block}_{name}",
        group=shown.group or group,
        label=shown.label or measure.label or name.replace("_", " ").capitalize(),
        better=_better(measure.retain if block in RETAINED else measure.forget),
        tip=shown.says or measure.says,
        text=FORMATS[form],
        measure=read,
        share=form == "share",
        optional=shown.optional,
        details=not shown.first,
    )


def _compared(entry: Comparison, shown: Shown) -> Column:
    def read(run: Run) -> Value:
        value = run.compare.get(entry.name)
        value = value.get(shown.block) if value and shown.block else value
        if not value or entry.value == "value":
            return value or _ABSENT
        # A test of two samples has the rows of either side.
        n, *others = value["n"] or [None]
        return {"value": value[entry.value], "reason": value["reason"], "n": n, "others": others}

    return Column(
        key=shown.key or entry.name,
        group=shown.group or CHANGE,
        label=shown.label or entry.label,
        better=_better(entry.retain if shown.block in RETAINED else entry.forget),
        tip=shown.says or entry.says,
        text=FORMATS[entry.form],
        measure=read,
        share=entry.form == "share",
        optional=shown.optional,
        details=not shown.first,
    )


def _better(direction: str) -> str:
    """``down ...`` is low, ``up ...`` is high; any other direction is neither."""
    return {"down": "low", "up": "high"}.get(re.split(r"\W", direction)[0], "")


def _at(path: str) -> Callable[[Run], Value]:
    return lambda run: run.measure(path)


def _difference(block: str, name: str) -> Callable[[Run], Value]:
    """The paired difference to `original`, from compare.json."""

    def read(run: Run) -> Value:
        blocks = run.compare.get("differences") or {}
        return (blocks.get(block) or {}).get(name) or _ABSENT

    return read


def _worst_wrapper(name: str) -> Callable[[Run], Value]:
    """The measure under the wrapper where it is highest."""

    def read(run: Run) -> Value:
        wrappers = run.eval["metrics"].get(WRAPPED) or {}
        measured = [block[name] for block in wrappers.values() if block[name]["value"] is not None]
        return max(measured, key=lambda value: value["value"], default=_ABSENT)

    return read


def _further(block: str) -> list[Column]:
    """The columns of a further part, by the measures of the block that it is of."""
    kind, _, name = block.partition("/")
    columns = []
    for measure in measures_of(kind):
        if measure.name not in OF_FURTHER:
            continue
        label = measure.label or measure.name.replace("_", " ").capitalize()
        columns.append(
            Column(
                key=f"{kind}_{name}_{measure.name}",
                group=FURTHER_PARTS,
                label=f"{name.replace('_', ' ')}: {label}",
                better=_better(measure.retain if kind in RETAINED else measure.forget),
                tip=f"{measure.says}, of {block}",
                text=FORMATS["share"],
                measure=_in(FURTHER, block, measure.name),
                share=True,
                optional=True,
                details=True,
            )
        )
    return columns


def _composite(name: str) -> Column:
    return Column(
        key=f"composite_{name}",
        group="Combined scores",
        label=name.replace("_", " ").capitalize(),
        better="",
        tip="A mean of other measures, see score.composite; one zero makes a harmonic one zero.",
        text=FORMATS["share"],
        measure=_in(COMPOSITE, name),
        optional=True,
        details=True,
    )


def _in(*path: str) -> Callable[[Run], Value]:
    """What stands at a place of ``metrics`` that only some results have."""

    def read(run: Run) -> Value:
        found: Any = run.eval["metrics"]
        for step in path:
            found = found.get(step) or {}
        return found or _ABSENT

    return read


def _tasks(run: Run) -> Mapping[str, Any]:
    tasks: Mapping[str, Any] = run.eval["metrics"].get("lm_eval") or {}
    return tasks


def _main(metrics: Mapping[str, Any]) -> str | None:
    """The metric that stands for a task: accuracy where there is one, else its first."""
    names = sorted(name for name, estimate in metrics.items() if isinstance(estimate, Mapping))
    return next((n for n in ("acc", "acc_norm", *names) if n in names), None)


def _lm_eval(task: str, metric: str) -> Column:
    def read(run: Run) -> Value:
        estimate = _tasks(run).get(task, {}).get(metric)
        return estimate or {"value": None, "reason": "not measured: eval.json does not have it"}

    share = metric.startswith(("acc", "exact_match"))
    return Column(
        key=f"lm_eval_{re.sub(r'[^A-Za-z0-9]+', '_', task)}",
        group=LM_EVAL,
        label=task.removeprefix("local:"),
        better="",
        tip=f"{metric} of lm-eval's task {task}. Whether high is good depends on its questions: "
        "about what was to be kept, or to be forgotten.",
        text=numbers.percent if share else numbers.decimal,
        measure=read,
        share=share,
        optional=True,
    )


def train_seconds(run: Run) -> Value:
    """Time of the stages that this method alone needs, as a measure (mean over seeds)."""
    seconds = own_seconds(run.eval["cost"].get("wall_s") or {})
    return {"value": seconds, "reason": "nothing was trained"}


def own_seconds(stages: Mapping[str, float | None]) -> float | None:
    """Of the seconds of stages those that a method alone needs; None if there are none."""
    own = {name for name, stage in STAGES.items() if stage.own_cost}
    # A task vector of another method is called by both, ``acquire task_vector``.
    seconds = [s for name, s in stages.items() if name.split()[0] in own and s is not None]
    return sum(seconds) if seconds else None


def trained_parameters(run: Run) -> Value:
    """Number of parameters that training changed, as a measure."""
    value = run.eval["cost"].get("trained_parameters") or None
    return {"value": value, "reason": "nothing was trained"}


COST_COLUMNS = (
    Column(
        "train_seconds",
        COST,
        "Training",
        "",
        "Time of the stages that this method alone needs; the subject's pretraining is not "
        "counted.",
        duration,
        train_seconds,
    ),
    Column(
        "trained_parameters",
        COST,
        "Parameters",
        "",
        "Number of parameters that training changed.",
        numbers.count,
        trained_parameters,
    ),
)
