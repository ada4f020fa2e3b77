"""The charts: Vega-Lite specifications written with Altair, each with a text and a table.

Colours are CSS variables, which the SVG renderer passes on. So a chart follows the light or dark
theme of the reader, and paper, without another drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import altair as alt

from palimpsest.report.headlines import stopped
from palimpsest.report.inputs import Run, Subject
from palimpsest.report.numbers import decimal, percent

INK, FAINT, FORGET, RETAIN = "var(--ink)", "var(--faint)", "var(--forget)", "var(--retain)"
SERIES = [f"var(--series-{i})" for i in range(8)]
"""Colours of methods and of loss terms, in order."""

POINTS = 3000
"""Points of one chart of training; a longer run shows means of neighbouring steps."""
TABLE_STEPS = 25
"""Steps in the table behind a chart of training; the csv file has all."""
PARTS = ("forget", "retain")
"""Parts that the sweep measures."""
NEAR = 0.06
"""Largest distance of points of the trade-off that share one label."""


@dataclass(frozen=True)
class Chart:
    """A chart, with a text for readers who cannot see it."""

    id: str
    title: str
    text: str
    """What the chart shows, in words."""
    spec: dict[str, Any]
    header: list[str]
    rows: list[list[str]]
    csv: str
    """Name of the table that has all values."""
    method: str = ""
    """The method that it is about; empty where it is about several or none."""


Line = dict[str, Any]


def sweep_charts(subject: Subject) -> list[Chart]:
    """The trade-off over lambda: all methods in one chart, then each method by itself."""
    swept = [(run, _mean_sweep(run)) for run in subject.runs if run.sweep]
    if not swept:
        return []
    return [_trade_off(subject, swept), *(_by_scale(subject, run, lines) for run, lines in swept)]


def training_charts(subject: Subject) -> list[tuple[Chart, Chart]]:
    """(loss terms, learning rate) of the subject's pretraining and of each trained method."""
    logs = [("subject", "Pretraining of the subject", subject.pretraining, "")]
    logs += [(run.method, run.title, run.training, stopped(run)) for run in subject.runs]
    charts = []
    for name, title, log, stop in logs:
        if log:
            prefix = f"{subject.name}-{name}"
            losses = _losses(prefix, title, log, stop)
            losses = replace(losses, method="" if name == "subject" else name)
            charts.append((losses, _learning_rate(prefix, title, log)))
    return charts


def _mean_sweep(run: Run) -> list[Line]:
    """Means over seeds, a line per lambda.

    scale, forget, retain (recall), forget_broken, retain_broken, general_perplexity.
    """
    by_scale: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in run.sweep:
        at = by_scale[line["scale"]]
        if line["part"] not in PARTS:
            at[f"{line['part']}_perplexity"].append(line["perplexity"])
            continue
        at[line["part"]].append(line["recall_rate"])
        if line.get("degenerate_rate") is not None:
            at[f"{line['part']}_broken"].append(line["degenerate_rate"])
    return [
        {"scale": scale, **{name: fmean(values) for name, values in by_scale[scale].items()}}
        for scale in sorted(by_scale)
        if set(PARTS) <= by_scale[scale].keys()
    ]


def _trade_off(subject: Subject, swept: Sequence[tuple[Run, list[Line]]]) -> Chart:
    points = [
        {
            "method": run.title,
            **line,
            "lambda": f"{line['scale']:g}",
            "chosen": "yes" if _is_chosen(run, line) else "no",
        }
        for run, lines in swept
        for line in lines
    ]
    titles = [run.title for run, _ in swept]
    text = (
        "Each line follows one method as lambda grows; the upper left corner is the goal: all of "
        "one thing forgotten, all of the other kept. A ring marks the lambda in use. "
        + " ".join(_in_words(run, lines) for run, lines in swept)
    )
    return Chart(
        id=f"{subject.name}-trade-off",
        title="Forgetting against keeping",
        text=text.strip(),
        spec=container_spec(_paths(points, titles), text, 360),
        header=["Method", "λ", "To forget", "To keep", "In use"],
        rows=[
            [
                p["method"],
                p["lambda"],
                percent(p["forget"]),
                percent(p["retain"]),
                "in use" if p["chosen"] == "yes" else "",
            ]
            for p in points
        ],
        csv="sweep",
    )


def _paths(points: list[Line], titles: list[str]) -> alt.LayerChart:
    """The way of each method as lambda grows, its lambda in use, and the goal."""
    x = alt.X(
        "forget:Q",
        title="recall of what is to be forgotten",
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
        scale=alt.Scale(domain=[-0.03, 1.1], nice=False),
    )
    y = alt.Y(
        "retain:Q",
        title="recall of what is to be kept",
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
        scale=alt.Scale(domain=[-0.07, 1.1], nice=False),
    )
    color = color_of("method", titles)
    tooltip = [
        alt.Tooltip("method:N"),
        alt.Tooltip("lambda:N", title="λ"),
        alt.Tooltip("forget:Q", format=".0%", title="to forget"),
        alt.Tooltip("retain:Q", format=".0%", title="to keep"),
        alt.Tooltip("chosen:N", title="chosen λ"),
    ]
    if any("general_perplexity" in point for point in points):
        tooltip.append(
            alt.Tooltip("general_perplexity:Q", format=".1f", title="general perplexity")
        )
    base = alt.Chart(alt.Data(values=points))
    path = base.mark_line(strokeWidth=1.5, opacity=0.55).encode(
        x, y, color=color, order=alt.Order("scale:Q")
    )
    ring = (
        base.transform_filter("datum.chosen === 'yes'")
        .mark_point(size=260, strokeWidth=1.5, filled=False, color=INK)
        .encode(x, y, tooltip=tooltip)
    )
    dots = base.mark_point(filled=True, size=52, opacity=1).encode(
        x, y, color=color, tooltip=tooltip
    )
    labels = (
        alt.Chart(alt.Data(values=_labels(points)))
        .mark_text(align="left", dx=8, dy=13, fontSize=11, color=INK)
        .encode(x, y, text="text:N")
    )
    corner = alt.Chart(alt.Data(values=[{"forget": 0, "retain": 1, "text": "goal"}]))
    goal = corner.mark_point(shape="cross", size=50, filled=True, color=FAINT).encode(
        x, y
    ) + corner.mark_text(
        align="left", dx=9, dy=-9, fontStyle="italic", fontSize=11, color=FAINT
    ).encode(x, y, text="text:N")
    return path + ring + dots + labels + goal


def _by_scale(subject: Subject, run: Run, lines: list[Line]) -> Chart:
    names = {
        "forget": "recall, to forget",
        "retain": "recall, to keep",
        "forget_broken": "broken, to forget",
        "retain_broken": "broken, to keep",
    }
    points = [
        {"scale": line["scale"], "what": what, "rate": line[key], "recall": key in PARTS}
        for line in lines
        for key, what in names.items()
        if key in line
    ]
    shown = list(dict.fromkeys(point["what"] for point in points))
    x = alt.X("scale:Q", title="λ, the factor of the task vector that is subtracted")
    y = alt.Y(
        "rate:Q",
        title=None,
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
        scale=alt.Scale(domain=[0, 1], nice=False),
    )
    base = alt.Chart(alt.Data(values=points)).encode(
        x,
        y,
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=shown, range=[FORGET, RETAIN, FORGET, RETAIN][: len(shown)]),
        ),
        tooltip=[
            alt.Tooltip("scale:Q", title="λ"),
            alt.Tooltip("what:N", title="share"),
            alt.Tooltip("rate:Q", format=".0%", title="value"),
        ],
    )
    dash = alt.StrokeDash(
        "what:N",
        title=None,
        scale=alt.Scale(domain=shown, range=[[1, 0], [1, 0], [2, 3], [2, 3]][: len(shown)]),
    )
    chart = base.mark_line(strokeWidth=2).encode(strokeDash=dash) + base.transform_filter(
        "datum.recall"
    ).mark_point(filled=True, size=34, opacity=1)
    if run.scale is not None:
        mark = alt.Chart(alt.Data(values=[{"scale": run.scale, "text": f"λ = {run.scale:g}"}]))
        chart += mark.mark_rule(strokeDash=[3, 3], color=FAINT).encode(x)
        chart += mark.mark_text(align="left", dx=4, dy=7, fontSize=11, color=INK).encode(
            x, y=alt.value(0), text="text:N"
        )
    text = f"Shares against lambda. {_in_words(run, lines)}"
    header = ["λ", "To forget", "To keep", "Broken, to forget", "Broken, to keep"]
    return Chart(
        id=f"{subject.name}-{run.method}-lambda",
        method=run.method,
        title=run.title,
        text=text.strip(),
        spec=container_spec(chart, text, 220),
        header=header,
        rows=[
            [f"{line['scale']:g}", *(percent(line[k]) if k in line else "" for k in names)]
            for line in lines
        ],
        csv="sweep",
    )


def _losses(prefix: str, title: str, log: list[Line], stop: str) -> Chart:
    terms = list(dict.fromkeys(name for line in log for name in line.get("terms") or {}))
    names = ["total", *terms] if len(terms) > 1 else terms or ["total"]
    seeds = list(dict.fromkeys(line["seed"] for line in log))
    thinned = {seed: _thin(log, seed, POINTS // (len(names) * len(seeds))) for seed in seeds}
    points = [
        {"seed": str(seed), "step": line["step"], "term": name, "value": _term(line, name)}
        for seed in seeds
        for line in thinned[seed]
        for name in names
    ]
    first, last = log[0], [line for line in log if line["seed"] == seeds[0]][-1]
    text = (
        f"{last['step']} steps; the loss goes from {decimal(first['loss'])} "
        f"to {decimal(last['loss'])}."
    )
    if stop:
        text += f" {stop}"
    chart = (
        alt.Chart(alt.Data(values=[p for p in points if p["value"] is not None]))
        .mark_line(strokeWidth=1.6, strokeJoin="round", opacity=0.9 if len(seeds) == 1 else 0.6)
        .encode(
            x=alt.X("step:Q", title=None, axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=color_of("term", names, [INK, *SERIES] if len(names) > 1 else SERIES),
            detail="seed:N",
            tooltip=[
                alt.Tooltip("step:Q"),
                alt.Tooltip("term:N"),
                alt.Tooltip("value:Q", format=".3~g"),
                alt.Tooltip("seed:N"),
            ],
        )
    )
    rows = [
        [
            str(seed),
            str(line["step"]),
            *(_shown(_term(line, n)) for n in names),
            f"{line['lr']:.3g}",
        ]
        for seed in seeds
        for line in _thin(log, seed, TABLE_STEPS)
    ]
    return Chart(
        id=f"{prefix}-loss",
        title=title,
        text=text,
        spec=container_spec(chart, f"{title}: {text}", 190),
        header=["Seed", "Step", *(n.capitalize() for n in names), "Learning rate"],
        rows=rows,
        csv="training",
    )


def _learning_rate(prefix: str, title: str, log: list[Line]) -> Chart:
    lines = _thin(log, log[0]["seed"], POINTS // 4)
    top = max(line["lr"] for line in lines)
    text = f"Learning rate, at most {top:.3g}."
    chart = (
        alt.Chart(alt.Data(values=[{"step": line["step"], "lr": line["lr"]} for line in lines]))
        .mark_area(line={"color": FAINT, "strokeWidth": 1.4}, color=FAINT, opacity=0.14)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("lr:Q", title=None, axis=alt.Axis(format=".1~e", values=[top])),
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("lr:Q", format=".2e")],
        )
    )
    spec = container_spec(chart, f"{title}: {text}", 44)
    return Chart(f"{prefix}-rate", title, text, spec, [], [], "training")


def _thin(log: list[Line], seed: int, most: int) -> list[Line]:
    """At most about `most` lines of one seed, each the mean of its neighbours."""
    lines = [line for line in log if line["seed"] == seed]
    size = -(-len(lines) // max(2, most))
    return lines if size <= 1 else [_mean(lines[i : i + size]) for i in range(0, len(lines), size)]


def _mean(lines: list[Line]) -> Line:
    terms = {
        name: fmean(line["terms"][name] for line in lines if name in (line.get("terms") or {}))
        for name in lines[-1].get("terms") or {}
    }
    means = {key: fmean(line[key] for line in lines) for key in ("loss", "lr")}
    return {**lines[-1], **means, "terms": terms}


def _term(line: Line, name: str) -> float | None:
    return line["loss"] if name == "total" else (line.get("terms") or {}).get(name)


def _shown(value: float | None) -> str:
    return "" if value is None else decimal(value)


def _is_chosen(run: Run, line: Line) -> bool:
    return run.scale is not None and abs(line["scale"] - run.scale) < 1e-9


def _in_words(run: Run, lines: list[Line]) -> str:
    chosen = next((line for line in lines if _is_chosen(run, line)), None)
    if chosen is None:
        return ""
    return (
        f"{run.title} at lambda {chosen['scale']:g}: {percent(chosen['forget'])} to forget, "
        f"{percent(chosen['retain'])} to keep."
    )


def _labels(points: list[Line]) -> list[Line]:
    """One label for points whose labels would overlap."""
    groups: list[list[Line]] = []
    for point in points:
        near = (
            group
            for group in groups
            if abs(group[0]["forget"] - point["forget"]) < NEAR
            and abs(group[0]["retain"] - point["retain"]) < NEAR
        )
        if (group := next(near, None)) is None:
            groups.append([point])
        else:
            group.append(point)
    return [
        {
            "forget": fmean(p["forget"] for p in group),
            "retain": min(p["retain"] for p in group),
            "text": " · ".join(f"{s:g}" for s in sorted({p["scale"] for p in group})),
        }
        for group in groups
    ]


def color_of(field: str, names: list[str], colors: list[str] = SERIES) -> alt.Color:
    """A colour for each of `names`; no legend for one alone."""
    colors = [colors[i % len(colors)] for i in range(len(names))]
    return alt.Color(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=names, range=colors),
        legend=None if len(names) == 1 else alt.Undefined,
    )


def container_spec(chart: alt.Chart | alt.LayerChart, text: str, height: int) -> dict[str, Any]:
    """The specification of a chart as wide as its place on the page; `text` describes it."""
    sized = chart.properties(width="container", height=height, description=text)
    # A check against the JSON schema is slow and gives the same every time: a test does it.
    spec = sized.to_dict(validate=False)
    # The page names Vega-Lite itself: an address in the page looks like a download.
    del spec["$schema"]
    return spec
