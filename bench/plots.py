"""Plots of a benchmark, as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from bench.targets import Line
from bench.timings import Timings
from palimpsest.report.localization import PRINT

INK, SOFT = PRINT["ink"], PRINT["soft"]
OURS, TARGET = "#2f6f6a", "#b5532a"


def ratios(lines: Sequence[Line]) -> str:
    """The ratio of each piece's speed to the plain form's, on a logarithmic scale, as an SVG."""
    data = [
        {
            "piece": line.title,
            "times": line.factor.median,
            "low": line.factor.low,
            "high": line.factor.high,
            "target": line.goal,
        }
        for line in lines
        if line.factor
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("piece:N", sort=None, title=None, axis=alt.Axis(labelLimit=420))
    )
    scale = alt.Scale(type="log", domain=[1, 30])
    times = alt.X("times:Q", scale=scale, title="times as fast as the plain form")
    chart = alt.layer(
        base.mark_rule(color=OURS, strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q"
        ),
        base.mark_point(color=OURS, filled=True, size=70).encode(x=times),
        base.transform_filter("isValid(datum.target)")
        .mark_tick(color=TARGET, thickness=2, size=18)
        .encode(x="target:Q"),
        base.mark_text(align="left", dx=9, color=SOFT, fontSize=10).encode(
            x="high:Q", text=alt.Text("times:Q", format=".3~g")
        ),
    )
    title = alt.TitleParams(
        "Times as fast as the plain form",
        subtitle="point: median of pairs; line: least to largest; tick: target",
    )
    return _svg(chart.properties(width=460, height=alt.Step(26), title=title))


def growth(timings: Timings) -> str | None:
    """Seconds against tokens for more rows and for more steps, each with its line, as an SVG."""
    panels = [_panel(timings, kind) for kind in ("rows", "steps")]
    if not all(panels):
        return None
    title = alt.TitleParams(
        "Cost grows with the tokens, and with nothing else",
        subtitle="our SKU step, K=1: 1, 2 and 4 times the rows; 1, 2 and 4 steps",
    )
    return _svg(alt.hconcat(*panels).properties(title=title))


def line_of(timings: Timings, kind: str) -> tuple[list[dict[str, float]], list[float], float]:
    """Points of one kind, the fitted line [slope, offset], and the largest deviation from it."""
    points = [
        {"tokens": tokens, "seconds": seconds}
        for number in (1, 2, 4)
        for tokens, seconds in zip(
            timings.column("growth", "ours", "tokens", f"{kind} {number}"),
            timings.column("growth", "ours", "wall_s", f"{kind} {number}"),
            strict=True,
        )
    ]
    if not points:
        return [], [], 0.0
    x, y = (np.array([point[name] for point in points]) for name in ("tokens", "seconds"))
    line = np.polyfit(x, y, 1)
    deviation = float(np.max(np.abs(y - np.polyval(line, x)) / np.polyval(line, x)))
    return points, line.tolist(), deviation


def _panel(timings: Timings, kind: str) -> Any:
    points, line, deviation = line_of(timings, kind)
    if not points:
        return None
    ends = [0.0, max(point["tokens"] for point in points)]
    line_ends = [{"tokens": x, "seconds": line[0] * x + line[1]} for x in ends]
    x, y = alt.X("tokens:Q", title="tokens"), alt.Y("seconds:Q", title="seconds")
    fitted = alt.Chart(alt.Data(values=line_ends)).mark_line(color=SOFT).encode(x, y)
    measured = alt.Chart(alt.Data(values=points)).mark_point(color=OURS, filled=True, size=60)
    name = f"more {kind}: {1000 * line[0]:.2g} ms a token; off the line by at most {deviation:.0%}"
    title = alt.TitleParams(name, fontSize=11, anchor="start")
    return alt.layer(fitted, measured.encode(x, y)).properties(width=330, height=220, title=title)


def _svg(chart: Any) -> str:
    texts = {"labelColor": SOFT, "titleColor": SOFT, "titleFontWeight": "normal"}
    theme = {
        "font": "sans-serif",
        "background": "#ffffff",
        "view": {"stroke": None},
        "title": {"anchor": "start", "color": INK, "subtitleColor": SOFT, "offset": 12},
        "axis": {**texts, "gridColor": "#ece8df", "domain": False, "ticks": False},
    }
    spec = {**chart.to_dict(validate=False), "config": theme}
    del spec["$schema"]
    return str(vl_convert.vegalite_to_svg(spec))
