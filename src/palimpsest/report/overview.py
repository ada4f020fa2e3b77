"""All methods of a subject in one chart: forgetting against retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from palimpsest.config.schema import REFERENCES
from palimpsest.metrics.tradeoffs import pareto
from palimpsest.report.charts import FAINT, INK, SERIES, Chart, container_spec
from palimpsest.report.headlines import best
from palimpsest.report.inputs import Run, Subject
from palimpsest.report.numbers import percent

Point = dict[str, Any]

PLOT = (470, 340)
"""Size in pixels for which the labels are placed; a wider chart has more room."""
X, Y = (-0.04, 1.04), (-0.06, 1.1)
"""Domains of the axes."""
LETTER, LINE, DOT, REACH = 5.8, 13, 5, 13
"""In pixels: width of a letter, height of a label, half a point, from a point to its label."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

_MEASURES = (
    ("recall", "recall_rate", "Free answers", "recall"),
    ("accuracy", "accuracy", "Token by token", "token accuracy"),
)
"""Name, measure, title and axis of each chart."""


def overview_charts(subject: Subject) -> list[Chart]:
    """Two scatters with a labelled point per method: recall, and teacher-forced accuracy."""
    charts = []
    for name, measure, title, axis in _MEASURES:
        points = _points(subject.runs, measure)
        if len(points) > 1:
            charts.append(_scatter(subject, points, name, title, axis))
    return charts


def _points(runs: Sequence[Run], measure: str) -> list[Point]:
    return [
        {"method": run.title, "forget": forget, "retain": retain, "kind": kind, "run": run}
        for run in runs
        if (forget := run.value(f"forget.{measure}")) is not None
        and (retain := run.value(f"retain.{measure}")) is not None
        for kind in ("reference" if run.method in REFERENCES else "method",)
    ]


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto set of the methods: no other is better in one axis and as good in the other."""
    methods = [point for point in points if point["kind"] == "method"]
    inside = pareto([(-point["forget"], point["retain"]) for point in methods])
    chosen = [point for point, one in zip(methods, inside, strict=True) if one]
    return sorted(chosen, key=lambda p: (p["forget"], p["retain"]))


def labelled(points: Sequence[Point]) -> list[Point]:
    """Points with a place for their labels: ``at_x``, ``at_y`` and ``left``, the label's side.

    Each label takes the nearest free place at its point, where it covers neither a point nor an
    earlier label.
    """
    taken: list[Box] = []
    for point in points:
        x, y = _pixels(point)
        taken.append((x - DOT, y - DOT, x + DOT, y + DOT))
    placed = []
    for point in sorted(points, key=lambda p: (-p["retain"], p["forget"], p["method"])):
        places = _places(point)
        free = (place for place in places if not any(_meet(place[0], box) for box in taken))
        box, x, y, left = next(free, places[0])
        taken.append(box)
        placed.append({**point, "at_x": _value(x, 0), "at_y": _value(y, 1), "left": left})
    return placed


def _places(point: Point) -> list[tuple[Box, float, float, bool]]:
    """Boxes for the label of a point within the plot, nearest first, with anchor and side."""
    x, y = _pixels(point)
    width = LETTER * len(point["method"])
    places = []
    for lines in range(PLOT[1] // LINE):
        for at_y in dict.fromkeys((y - lines * LINE, y + lines * LINE)):
            for left in (x > PLOT[0] / 2, x <= PLOT[0] / 2):
                at_x = x - REACH if left else x + REACH
                box = (at_x - width * left, at_y - LINE / 2, at_x + width * (not left), at_y + 6)
                if box[0] >= 0 and box[1] >= 0 and box[2] <= PLOT[0] and box[3] <= PLOT[1]:
                    places.append((box, at_x, at_y, left))
    # A name longer than the plot fits nowhere.
    return places or [((x, y, x, y), x, y, False)]


def _pixels(point: Point) -> tuple[float, float]:
    return (
        (point["forget"] - X[0]) / (X[1] - X[0]) * PLOT[0],
        (point["retain"] - Y[0]) / (Y[1] - Y[0]) * PLOT[1],
    )


def _value(pixels: float, axis: int) -> float:
    low, high = (X, Y)[axis]
    return round(low + pixels / PLOT[axis] * (high - low), 4)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _scatter(subject: Subject, points: list[Point], name: str, title: str, axis: str) -> Chart:
    data = [{k: v for k, v in p.items() if k != "run"} for p in labelled(points)]
    ticks = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1], grid=True)
    x = alt.X(
        "forget:Q",
        title=f"{axis}, to forget",
        axis=ticks,
        scale=alt.Scale(domain=list(X), nice=False),
    )
    y = alt.Y(
        "retain:Q",
        title=f"{axis}, to keep",
        axis=ticks,
        scale=alt.Scale(domain=list(Y), nice=False),
    )
    base = alt.Chart(alt.Data(values=data))
    leaders = base.transform_filter("abs(datum.at_y - datum.retain) > 0.005").mark_rule(
        color=FAINT, strokeWidth=0.8, opacity=0.7
    )
    goal = alt.Chart(alt.Data(values=[{"forget": 0, "retain": 1}])).mark_point(
        shape="cross", size=60, filled=True, color=FAINT, opacity=0.8
    )
    tooltip = [
        alt.Tooltip("method:N"),
        alt.Tooltip("forget:Q", format=".1%", title="to forget"),
        alt.Tooltip("retain:Q", format=".1%", title="to keep"),
    ]
    dots = base.mark_point(filled=True, size=64, opacity=1).encode(
        x,
        y,
        tooltip=tooltip,
        color=alt.condition("datum.kind === 'reference'", alt.value(INK), alt.value(SERIES[0])),
        shape=alt.condition(
            "datum.kind === 'reference'", alt.value("diamond"), alt.value("circle")
        ),
    )
    steps = [{"forget": p["forget"], "retain": p["retain"]} for p in front(points)]
    pareto = alt.Chart(alt.Data(values=steps)).mark_line(
        interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.2, color=FAINT
    )
    chart = (
        goal.encode(x, y)
        + pareto.encode(x, y)
        + leaders.encode(x, y, x2="at_x:Q", y2="at_y:Q")
        + dots
        + alt.layer(*(_labels(base, right) for right in (True, False)))
    )
    text = _in_words(subject, points, axis)
    return Chart(
        id=f"{subject.name}-overview-{name}",
        title=title,
        text=text,
        spec=container_spec(chart, f"{title}: {text}", 400),
        header=["Method", "To forget", "To keep"],
        rows=[[p["method"], percent(p["forget"]), percent(p["retain"])] for p in points],
        csv="methods",
    )


def _labels(base: alt.Chart, right: bool) -> alt.LayerChart:
    """Names on one side of their points, on a halo that keeps them readable over lines."""
    of_side = base.transform_filter("!datum.left" if right else "datum.left")
    style: dict[str, Any] = {"align": "left" if right else "right", "dx": 1 if right else -1}
    place = {"x": alt.X("at_x:Q"), "y": alt.Y("at_y:Q"), "text": alt.Text("method:N")}
    halo = of_side.mark_text(
        **style, fontSize=11, stroke="var(--paper)", strokeWidth=3, strokeJoin="round", aria=False
    )
    return halo.encode(**place) + of_side.mark_text(**style, fontSize=11, color=INK).encode(**place)


def _in_words(subject: Subject, points: Sequence[Point], axis: str) -> str:
    text = (
        "A point per method; the upper left corner, marked with a cross, is the goal: all of one "
        "thing forgotten, all of the other kept. Diamonds are references, no methods; the dashed "
        "line joins the methods that no other one beats in both."
    )
    winner = best(subject)
    point = next((p for p in points if p["run"] is winner), None)
    if point is None:
        return f"{text} A method that is nearer to the goal may not be better: see the tests above."
    return (
        f"{text} In the tests above, {point['method']} is better than each other method in "
        f"something and worse in nothing; its {axis} is {percent(point['forget'])} to forget, "
        f"{percent(point['retain'])} to keep."
    )
