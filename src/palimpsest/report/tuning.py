"""Tuning: what the search for a method's settings tried, chose, and what that is worth elsewhere.

All points are values on the rows that choose. What is reported of a method is measured on other
rows, with other seeds; the difference, the optimism of the choice, is written beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from palimpsest.config.schema import REFERENCES
from palimpsest.io.numbers import duration
from palimpsest.metrics.tradeoffs import expected_best, hypervolume
from palimpsest.pipeline.points import name_of
from palimpsest.report.charts import FAINT, INK, SERIES, Chart, color_of, container_spec
from palimpsest.report.inputs import Run, Subject, Tuned
from palimpsest.report.numbers import change, percent

Line = dict[str, Any]

OWN = name_of(0)
"""The first trial: the settings that the entry has by hand."""
AS_TRAINED = 1.0
"""The scale of a trial's change as it was trained."""

MET, MISSED = "conditions met", "conditions missed"
HAND, CHOSEN, STOPPED = "by hand", "chosen", "stopped"
BEFORE, NEVER = "original", "retrained"
STAR = (
    "M0,-1L0.24,-0.32L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31"
    "L-0.24,-0.32Z"
)
SHAPES = {
    MET: ("circle", 46),
    MISSED: ("stroke", 46),
    HAND: ("square", 190),
    CHOSEN: (STAR, 340),
    STOPPED: ("M-1,-1L1,1M-1,1L1,-1", 40),
    BEFORE: ("diamond", 90),
    NEVER: ("triangle-up", 90),
}
"""Kind of a mark -> its shape, so that no colour is needed, and its size."""
BELOW, APART = -0.06, 0.035
"""Where stopped trials stand, which have no values: below the axis, side by side."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SIGNS = ("circle", "square", "triangle-up", "diamond", "cross")


@dataclass(frozen=True)
class Trial:
    """One trial, a line of the table: its best point."""

    name: str
    settings: str
    scale: str
    forget: str
    retain: str
    status: str
    chosen: bool


@dataclass(frozen=True)
class Search:
    """The search for the settings of one method."""

    name: str
    title: str
    feasible: bool
    says: list[str]
    """What was chosen and why; what it is worth on other rows; what the search cost."""
    chart: Chart
    trials: list[Trial]


@dataclass(frozen=True)
class Tuning:
    """The section of a subject."""

    searches: list[Search]
    best: Chart
    """What k trials of each method can be expected to find."""


def tuning(subject: Subject) -> Tuning | None:
    """The section on tuning; None where no method of the subject was tuned."""
    tuned = [(run, run.tuned) for run in subject.runs if run.tuned is not None]
    if not tuned:
        return None
    return Tuning(
        [_search(subject, run, found) for run, found in tuned],
        _expected(subject, tuned),
    )


def best_by_trial(trials: Sequence[Line]) -> dict[str, Line]:
    """Trial -> its best point: the chosen one; else one that meets the conditions, then by x, y."""
    best: dict[str, Line] = {}
    for line in trials:
        known = best.get(line["trial"])
        if known is None or _merit(line) > _merit(known):
            best[line["trial"]] = line
    return best


def found_by_trial(trials: Sequence[Line]) -> list[float]:
    """What each trial finds: the share forgotten at its best point that meets the conditions.

    Without such a point it is 0: the subject stays as it is.
    """
    found = dict.fromkeys((line["trial"] for line in trials), 0.0)
    for line in trials:
        if line["feasible"] and line["x"] is not None:
            found[line["trial"]] = max(found[line["trial"]], line["x"])
    return list(found.values())


def points_of(trials: Sequence[Line]) -> list[tuple[float, float]]:
    """The points (x, y) that have both."""
    return [(line["x"], line["y"]) for line in trials if _placed(line)]


def summary(run: Run, tuned: Tuned) -> Line:
    """A line of the table ``tuning``: one tuned method in numbers."""
    chosen = tuned.chosen
    reported = {part: run.measure(f"{part}.recall_rate") for part in ("forget", "retain")}
    own = chosen.get("trial0") or {}
    line = {key: chosen[key] for key in ("plan", "trials", "stopped", "feasible", "trial", "scale")}
    line |= {
        "settings": json.dumps(chosen["settings"], sort_keys=True),
        "why": chosen["why"],
        "seconds": chosen["seconds"],
        "hypervolume": hypervolume(points_of(tuned.trials)),
        "rows_hash": chosen["rows"]["hash"],
    }
    for part, measure in reported.items():
        value = chosen["values"][part]
        line |= {
            f"{part}_by_hand": own.get(part),
            f"{part}_chosen": value,
            f"{part}_reported": measure["value"],
            f"{part}_optimism": optimism(part, value, measure["value"]),
            f"{part}_rows_choosing": chosen["rows"][part],
            f"{part}_rows_reporting": measure["n"],
        }
    return line


def optimism(part: str, chosen: float | None, reported: float | None) -> float | None:
    """By how much the choosing rows look better than the reported ones; None where one is missing.

    What is forgotten is better when it is low, what is kept when it is high.
    """
    if chosen is None or reported is None:
        return None
    return reported - chosen if part == "forget" else chosen - reported


def _search(subject: Subject, run: Run, tuned: Tuned) -> Search:
    best = best_by_trial(tuned.trials).values()
    return Search(
        name=run.method,
        title=run.title,
        feasible=bool(tuned.chosen["feasible"]),
        says=[_choice(tuned), _worth(run, tuned), _budget(tuned)],
        chart=_scatter(subject, run, tuned),
        trials=[_trial(line) for line in sorted(best, key=lambda line: line["trial"])],
    )


def _choice(tuned: Tuned) -> str:
    chosen = tuned.chosen
    text = f"Chosen: trial {chosen['trial']} at scale {chosen['scale']:g}: {chosen['why']}."
    if not chosen["feasible"]:
        text = f"No setting met the conditions, so this method is not ranked. {text}"
    own = chosen.get("trial0")
    if own is None:
        return f"{text} The settings by hand were stopped."
    if _number(own["forget"]) is None or _number(own["retain"]) is None:
        return text
    return (
        f"{text} By hand, on the same rows: {percent(own['forget'])} to forget, "
        f"{percent(own['retain'])} to keep."
    )


def _worth(run: Run, tuned: Tuned) -> str:
    """The line of optimism."""
    texts = []
    for part, what in (
        ("forget", "of what is to be forgotten"),
        ("retain", "of what is to be kept"),
    ):
        measure, value = run.measure(f"{part}.recall_rate"), tuned.chosen["values"][part]
        if (by := optimism(part, value, measure["value"])) is not None:
            texts.append(
                f"recall {what} {percent(value)} on {tuned.chosen['rows'][part]} rows that chose, "
                f"{percent(measure['value'])} on {measure['n']} others (optimism {change(by)})"
            )
    return f"Chosen and reported: {'; '.join(texts)}." if texts else ""


def _budget(tuned: Tuned) -> str:
    chosen, lines = tuned.chosen, best_by_trial(tuned.trials).values()
    rows = sorted(line["optimizer_rows"] for line in lines)
    scales = len({line["scale"] for line in tuned.trials if _placed(line)})
    stopped = f", {chosen['stopped']} of them stopped" if chosen["stopped"] else ""
    trained = f"{rows[0]:,}" if rows[0] == rows[-1] else f"{rows[0]:,} to {rows[-1]:,}"
    return (
        f"Plan {chosen['plan']}: {chosen['trials']} trials{stopped}, each at {scales} "
        f"scale{'' if scales == 1 else 's'} and on {trained} rows of training, "
        f"{duration(chosen['seconds'])} in all. The points cover "
        f"{percent(hypervolume(points_of(tuned.trials)))} of the plane (hypervolume)."
    )


def _trial(line: Line) -> Trial:
    status = {True: MET, False: MISSED}[bool(line["feasible"])]
    if line["status"] == "stopped":
        status = f"{STOPPED}: {line['reason']}" if line["reason"] else STOPPED
    marks = [
        name for name, here in ((HAND, line["trial"] == OWN), (CHOSEN, line["chosen"])) if here
    ]
    return Trial(
        name=line["trial"],
        settings=_settings(line),
        scale=f"{line['scale']:g}",
        forget=_percent(line["forget"]),
        retain=_percent(line["retain"]),
        status=", ".join([*marks, status]),
        chosen=bool(line["chosen"]),
    )


def _settings(line: Line) -> str:
    """``learning_rate 0.0014, steps 16``: keys by their last word, where that is enough."""
    settings = json.loads(line["settings"])
    if not settings:
        return "its own"
    last = [key.rpartition(".")[2] for key in settings]
    names = [
        short if last.count(short) == 1 else key for key, short in zip(settings, last, strict=True)
    ]
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in zip(names, settings.values(), strict=True)
    )


def _scatter(subject: Subject, run: Run, tuned: Tuned) -> Chart:
    points = [_point(line) for line in tuned.trials if _placed(line)]
    marks = [_mark(line, HAND) for line in tuned.trials if _by_hand(line) and _placed(line)]
    marks += [_mark(line, CHOSEN) for line in tuned.trials if line["chosen"] and _placed(line)]
    marks += _references(subject)
    stopped = [line for line in tuned.trials if line["status"] == "stopped"]
    marks += [
        {**_mark(line, STOPPED), "x": APART * place, "y": BELOW}
        for place, line in enumerate(stopped)
    ]
    for one in (*points, *marks):
        one["area"] = SHAPES[one["kind"]][1]
    kinds = [kind for kind in SHAPES if any(one["kind"] == kind for one in (*points, *marks))]
    ticks = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X(
        "x:Q",
        title="forgotten",
        axis=ticks,
        scale=alt.Scale(domain=[-0.04, 1.05], nice=False),
    )
    y = alt.Y(
        "y:Q",
        title="kept",
        axis=ticks,
        scale=alt.Scale(domain=[-0.1, 1.08], nice=False),
    )
    shape = alt.Shape(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[SHAPES[kind][0] for kind in kinds]),
    )
    size = alt.Size("area:Q", legend=None, scale=None)
    tooltip = [
        alt.Tooltip("kind:N"),
        alt.Tooltip("trial:N"),
        alt.Tooltip("scale:N"),
        alt.Tooltip("settings:N"),
        alt.Tooltip("forgotten:N"),
        alt.Tooltip("kept:N"),
    ]
    line = alt.Chart(alt.Data(values=_front(tuned.trials))).mark_line(
        interpolate="step-before", strokeDash=[4, 3], strokeWidth=1.4, color=FAINT
    )
    drawn = [
        alt.Chart(alt.Data(values=data))
        .mark_point(filled=False, opacity=1, strokeWidth=1.6, color=color)
        .encode(x, y, shape=shape, size=size, tooltip=tooltip)
        for data, color in ((points, SERIES[0]), (marks, INK))
    ]
    text = _in_words(run, tuned, len(stopped))
    return Chart(
        id=f"{subject.name}-{run.method}-trials",
        title=f"{run.title}: what was tried",
        text=text,
        spec=container_spec(line.encode(x, y) + drawn[0] + drawn[1], text, 320),
        header=["Trial", "Scale", "Settings", "Forgotten", "Kept", "To forget", "To keep", "State"],
        rows=[_row(line) for line in tuned.trials],
        csv="trials",
    )


def _in_words(run: Run, tuned: Tuned, stopped: int) -> str:
    chosen = next((line for line in tuned.trials if line["chosen"]), None)
    text = (
        "Each point is a trial at one scale, on the rows that choose: forgotten is 0 for the "
        "original and 1 for a model that never learned, kept is relative to the original. The "
        "dashed line joins the points that no other one beats in both. A square is the setting by "
        "hand, a star the chosen one, a dash a point that misses a condition, a diamond the "
        "original, a triangle the retrained model (kept as reported)."
    )
    if stopped:
        text += f" Crosses below the axis are trials that were stopped ({stopped})."
    if chosen is not None and _placed(chosen):
        text += (
            f" {run.title} was chosen where {percent(chosen['x'])} is forgotten and "
            f"{percent(chosen['y'])} kept."
        )
    return text


def _point(line: Line) -> Line:
    return _mark(line, MET if line["feasible"] else MISSED)


def _mark(line: Line, kind: str) -> Line:
    return {
        "x": line["x"],
        "y": line["y"],
        "kind": kind,
        "trial": line["trial"],
        "scale": f"{line['scale']:g}",
        "settings": _settings(line),
        "forgotten": _percent(line["x"]),
        "kept": _percent(line["y"]),
    }


def _references(subject: Subject) -> list[Line]:
    """The original at (0, 1); retrained at 1, as much kept as reported."""
    none = dict.fromkeys(("trial", "scale", "settings"), "none")
    marks = [{"x": 0.0, "y": 1.0, "kind": BEFORE, **none, "forgotten": "0%", "kept": "100%"}]
    values = [
        run.value("retain.recall_rate") if run is not None else None
        for run in (subject.retrained, subject.original)
    ]
    if values[0] is not None and values[1]:
        kept = min(1.0, values[0] / values[1])
        one = {"x": 1.0, "y": kept, "kind": NEVER, **none, "forgotten": "100%"}
        marks.append({**one, "kept": percent(kept)})
    return marks


def _front(trials: Sequence[Line]) -> list[Line]:
    """Corners of the Pareto line, from the left edge to the axis."""
    corners = sorted({(line["x"], line["y"]) for line in trials if line["front"] and _placed(line)})
    if not corners:
        return []
    ends = [(0.0, corners[0][1]), *corners, (corners[-1][0], 0.0)]
    return [{"x": x, "y": y} for x, y in ends]


def _row(line: Line) -> list[str]:
    marks = [MET if line["feasible"] else MISSED] if _placed(line) else []
    marks += [HAND] if _by_hand(line) else []
    marks += [CHOSEN] if line["chosen"] else []
    marks += [STOPPED] if line["status"] == "stopped" else []
    values = [_percent(line[key]) for key in ("x", "y", "forget", "retain")]
    return [line["trial"], f"{line['scale']:g}", _settings(line), *values, ", ".join(marks)]


def expected_lines(tuned: Tuned) -> list[Line]:
    """Lines of the table ``expected_best``: k, and what k trials are expected to find."""
    found = expected_best(found_by_trial(tuned.trials))
    return [{"trials": k, "value": value} for k, value in enumerate(found, 1)]


def _expected(subject: Subject, tuned: Sequence[tuple[Run, Tuned]]) -> Chart:
    points = [
        {"method": run.title, **line} for run, found in tuned for line in expected_lines(found)
    ]
    titles = [run.title for run, _ in tuned]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(titles))]
    signs = [SIGNS[i % len(SIGNS)] for i in range(len(titles))]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("trials:Q", title="trials", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y(
            "value:Q",
            title="forgotten, conditions met",
            axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
            scale=alt.Scale(domain=[0, 1.03], nice=False),
        ),
        color=color_of("method", titles),
        tooltip=[
            alt.Tooltip("method:N"),
            alt.Tooltip("trials:Q"),
            alt.Tooltip("value:Q", format=".0%", title="expected best"),
        ],
    )
    legend: dict[str, Any] = {"title": None, "legend": None if len(titles) == 1 else alt.Undefined}
    lines = base.mark_line(strokeWidth=1.8).encode(
        strokeDash=alt.StrokeDash(
            "method:N", scale=alt.Scale(domain=titles, range=dashes), **legend
        )
    )
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(
        shape=alt.Shape("method:N", scale=alt.Scale(domain=titles, range=signs), **legend)
    )
    text = (
        "Of k trials drawn from those that were made, the share forgotten at the best point that "
        "meets the conditions, as expected; a trial without such a point finds nothing. A curve "
        "that rises late is a method that needs luck with its settings. "
        + " ".join(
            f"{run.title}: {percent(values[0])} with one, {percent(values[-1])} with {len(values)}."
            for run, found in tuned
            if (values := [line["value"] for line in expected_lines(found)])
        )
    )
    rows = [[p["method"], str(p["trials"]), percent(p["value"])] for p in points]
    return Chart(
        id=f"{subject.name}-expected-best",
        title="What k trials find",
        text=text,
        spec=container_spec(lines + dots, text, 260),
        header=["Method", "Trials", "Expected best"],
        rows=rows,
        csv="expected_best",
    )


def set_by(run: Run, subject: Subject) -> str:
    """``tuned`` or ``by hand``, where the subject has methods of either kind; else empty."""
    if run.method in REFERENCES or all(one.tuned is None for one in subject.runs):
        return ""
    return "by hand" if run.tuned is None else "tuned"


def _merit(line: Line) -> tuple[bool, bool, float, float]:
    x, y = ((line[key] if line[key] is not None else -1.0) for key in ("x", "y"))
    return bool(line["chosen"]), bool(line["feasible"]), x, y


def _by_hand(line: Line) -> bool:
    return bool(line["trial"] == OWN and line["scale"] == AS_TRAINED)


def _placed(line: Mapping[str, Any]) -> bool:
    return _number(line["x"]) is not None and _number(line["y"]) is not None


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _percent(value: float | None) -> str:
    return "not measured" if _number(value) is None else percent(value or 0.0)
