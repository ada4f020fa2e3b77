"""Could it be recovered? What attacks brought back, and whether a model meets the criteria.

The number is `palimpsest.metrics.robust`'s: the worst attack above the same attack on a model that
never learned it, relative to what there was. Nothing found reads "not told apart", never "removed".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from palimpsest.attacks import UNATTACKED
from palimpsest.attacks.files import BESIDE
from palimpsest.config.schema import REFERENCES
from palimpsest.report.charts import FAINT, INK, SERIES, Chart, color_of, container_spec
from palimpsest.report.criteria import source_of
from palimpsest.report.headlines import under_attack
from palimpsest.report.inputs import ORIGINAL, RETRAINED, Run, Subject
from palimpsest.report.numbers import DASH, change, percent

OUTCOMES = {
    "pass": ("●", "passed"),
    "undecided": ("○", "undecided"),
    "fail": ("✕", "failed"),
    "not tested": ("–", "not tested"),
}
"""Outcome of a verdict -> its shape, so that no colour is needed, and its word."""

HEADS = ("own", "base", "fitted")
"""Output layers of a lens."""

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """What one attack brought back of one method, or the rates of a reference."""

    text: str
    note: str = ""
    weak: bool = False
    damage: str = ""
    """What the attacked model still knows of the rows to keep, and its broken answers."""


@dataclass(frozen=True)
class Line:
    """One attack, a line of the table."""

    name: str
    about: str
    entries: list[Entry]


@dataclass(frozen=True)
class Recovered:
    """A row whose answer an attack brought back."""

    method: str
    attack: str
    question: str
    asked: str
    text: str
    control: str


@dataclass(frozen=True)
class Beside:
    """A folder with parts of what was forgotten, beside the published model."""

    path: str
    holds: str
    readers: str


@dataclass(frozen=True)
class Condition:
    """A criterion, a line of the verdicts."""

    says: str
    entries: list[tuple[str, str, str]]
    """Of each model: outcome, shape with its word, value with its interval."""


@dataclass(frozen=True)
class Recovery:
    """The section of a subject."""

    methods: list[str]
    """Titles over the columns of the table."""
    references: list[str]
    lines: list[Line]
    notices: list[str]
    """What keeps the columns from being compared."""
    beside: list[Beside]
    summary: Chart
    curves: list[Chart]
    examples: list[Recovered]
    not_tested: list[str]
    judged: list[str]
    """Titles over the columns of the verdicts; empty without criteria."""
    criteria: str
    criteria_source: str
    """Their hash, and since when they stand where they do."""
    unusable: str
    outcomes: list[tuple[str, str, str]]
    """Of each model: outcome, shape with its word, the verdict in a sentence."""
    conditions: list[Condition]


def recovery(subject: Subject) -> Recovery | None:
    """The section on attacks; None where no method of the subject was attacked."""
    runs = [run for run in subject.runs if run.robust and run.method not in REFERENCES]
    if not runs:
        return None
    references = [run for run in (subject.original, subject.retrained) if run is not None]
    judged = [run for run in [*runs, *references] if run.verdict]
    return Recovery(
        methods=[run.title for run in runs],
        references=[run.title for run in references],
        lines=[
            *_lines(runs, references, "attacks"),
            *_cloze(runs, references),
            *_lines(runs, references, "form"),
        ],
        notices=[*_same_models([*references, *runs]), *_other_settings(runs)],
        beside=_beside(runs),
        summary=_summary(subject, runs),
        curves=[*_relearning(subject, runs), *_layers(subject, runs)],
        examples=[one for run in runs for one in _examples(run)] if subject.texts else [],
        not_tested=_not_tested(runs),
        judged=[run.title for run in judged],
        criteria=judged[0].verdict["criteria"] if judged else "",
        criteria_source=source_of(judged[0].verdict) if judged else "",
        unusable=next(
            (str(run.verdict["unusable"]) for run in judged if not run.verdict["usable"]), ""
        ),
        outcomes=[(*_outcome(run.verdict["outcome"]), run.verdict["says"]) for run in judged],
        conditions=_conditions(judged),
    )


def _outcome(outcome: str) -> tuple[str, str]:
    shape, word = OUTCOMES[outcome]
    return outcome.replace(" ", "-"), f"{shape} {word}"


def _lines(runs: Sequence[Run], references: Sequence[Run], block: str) -> list[Line]:
    """A line for each attack, in the order in which they were run."""
    names = list(dict.fromkeys(name for run in runs for name in run.robust.get(block) or {}))
    return [
        Line(
            "no attack" if name == UNATTACKED else name,
            _about(next(run.robust[block][name] for run in runs if name in run.robust[block])),
            [
                *(_entry(run, (run.robust.get(block) or {}).get(name)) for run in runs),
                *(_rate(runs, block, name, one.method) for one in references),
            ],
        )
        for name in names
    ]


def _about(attack: Fields) -> str:
    control, power = attack["control"], attack["power"]["value"]
    against = {RETRAINED: "", None: ", no control"}.get(control, f", against {control}")
    found = "" if power is None else f"; power {percent(power)}"
    return f"{attack['level']}, {attack['unit']}{against}{found}"


def _entry(run: Run, attack: Fields | None) -> Entry:
    """What comes back of what there was, its interval, and the rate itself."""
    if attack is None:
        return Entry(DASH, "not run")
    found, rate = attack["recovered"], attack["rates"]["method"]
    itself = "" if rate is None else f"rate {percent(rate)}"
    weak = f"weak here: {attack['weak_why']}" if attack["weak"] else ""
    edge = "its best learning rate is the smallest or largest tried" * bool(attack["rate_at_edge"])
    damage = _damage(attack, "method")
    if found["value"] is None:
        return Entry(DASH, _joined(weak or found["reason"], itself, edge), bool(weak), damage)
    ends = found["ci95"]
    between = "" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"
    note = _joined(between, itself, weak, edge)
    return Entry(percent(found["value"]), note, bool(weak), damage)


def _damage(attack: Fields, key: str) -> str:
    rates = attack["damage"].get(key) or {}
    kept, broken = rates.get("retain_recall"), rates.get("degenerate")
    texts = [
        "" if kept is None else f"keeps {percent(kept)}",
        "" if broken is None else f"broken {percent(broken)}",
    ]
    return ", ".join(text for text in texts if text)


def _rate(runs: Sequence[Run], block: str, name: str, method: str) -> Entry:
    """The rate of a reference under an attack: all methods share it."""
    key = "original" if method == ORIGINAL else "control"
    attacks = [(run.robust.get(block) or {}).get(name) for run in runs]
    known = (one for one in attacks if one is not None and one["rates"].get(key) is not None)
    if (one := next(known, None)) is None:
        return Entry(DASH, "rate not measured")
    return Entry(percent(one["rates"][key]), "rate", damage=_damage(one, key))


CLOZE = "cloze"
"""Setting of an answer with a blank in place of the fact."""


def _cloze(runs: Sequence[Run], references: Sequence[Run]) -> list[Line]:
    """How much more a blank in the answer brings than the question: a sign of hiding by itself."""
    columns = [
        *((run, "method") for run in runs),
        *((runs[0], "original" if one.method == ORIGINAL else "control") for one in references),
    ]
    gaps = [_cloze_gap(run, key) for run, key in columns]
    if all(gap is None for gap in gaps):
        return []
    about = "rate with a blank in the answer, less that of the plain question"
    entries = [
        Entry(DASH, "not asked both ways") if gap is None else Entry(change(gap)) for gap in gaps
    ]
    return [Line("cloze − asked", about, entries)]


def _cloze_gap(run: Run, key: str) -> float | None:
    settings = [one["settings"].get(CLOZE) for one in run.robust["attacks"].values()]
    blanks = [((one or {}).get(key) or {}).get("rate") for one in settings]
    asked = (run.robust["unattacked"].get(key) or {}).get("rate")
    blank = next((rate for rate in blanks if rate is not None), None)
    return None if blank is None or asked is None else blank - asked


def _same_models(runs: Sequence[Run]) -> list[str]:
    """A notice for each model that several methods have: their numbers are one model's."""
    same: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        if run.robust:
            same.setdefault(tuple(run.robust["weights"]), []).append(run.title)
    return [
        f"{' and '.join(titles)} are the same model: their files are equal, and so are all their "
        "numbers."
        for titles in same.values()
        if len(titles) > 1
    ]


def _other_settings(runs: Sequence[Run]) -> list[str]:
    """A notice where methods were attacked with different settings."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(run.robust["slices"], []).append(run.title)
    if len(groups) < 2:
        return []
    listed = "; ".join(", ".join(titles) for titles in groups.values())
    return [f"Not attacked with the same settings, so these groups cannot be compared: {listed}."]


def _beside(runs: Sequence[Run]) -> list[Beside]:
    """Folders beside the models with parts of what was forgotten, each once."""
    found = {
        folder["path"]: Beside(
            folder["path"],
            folder["holds"],
            "its owner alone" if folder["private"] else "everybody on this machine",
        )
        for run in runs
        for attack in run.robust["form"].values()
        for folder in attack["about"].get(BESIDE, {}).get("folders", [])
    }
    return [found[path] for path in sorted(found)]


def _joined(*texts: str | None) -> str:
    return "; ".join(text for text in texts if text)


def _summary(subject: Subject, runs: Sequence[Run]) -> Chart:
    """A dot and a bar for each method: what is recoverable, and its interval."""
    points = []
    for run in runs:
        found = run.robust["recoverable"]
        if found["value"] is not None:
            low, high = found["ci95"] or (found["value"], found["value"])
            line = {"method": run.title, "value": found["value"], "low": low, "high": high}
            points.append(line | {"worst": run.robust["worst"]})
    y = alt.Y("method:N", title=None, sort=None)
    axis = alt.Axis(format="%")
    title = "recoverable: 0% as if never taught, 100% all of it"
    base = alt.Chart(alt.Data(values=points))
    bars = base.mark_rule(strokeWidth=2, color=FAINT).encode(
        x=alt.X("low:Q", title=title, axis=axis), x2="high:Q", y=y
    )
    dots = base.mark_point(filled=True, size=70, opacity=1, color=INK).encode(
        x=alt.X("value:Q", title=title, axis=axis),
        y=y,
        tooltip=[
            alt.Tooltip("method:N"),
            alt.Tooltip("value:Q", format=".0%", title="recoverable"),
            alt.Tooltip("low:Q", format=".0%"),
            alt.Tooltip("high:Q", format=".0%"),
            alt.Tooltip("worst:N", title="worst attack"),
        ],
    )
    text = "What the worst attack brings back, relative to what there was, with its interval. "
    text += " ".join(f"{run.title}: {under_attack(run)[1]}" for run in runs)
    return Chart(
        id=f"{subject.name}-recoverable",
        title="Recoverable",
        text=text,
        spec=container_spec(bars + dots, text, 40 + 34 * len(runs)),
        header=["Method", "Recoverable", "From", "To", "Worst attack"],
        rows=[
            [
                p["method"],
                *(percent(p[k]) for k in ("value", "low", "high")),
                p["worst"] or "no attack",
            ]
            for p in points
        ],
        csv="attacks",
    )


def _relearning(subject: Subject, runs: Sequence[Run]) -> list[Chart]:
    """A chart for each attack that trains: recall by step, at each model's best rate."""
    charts = []
    for name in _names(runs, "relearn"):
        points = [
            {"model": title, "step": step, "value": value}
            for title, run, key in _models(subject, runs, name)
            for step, value in _curve(run, name, key)
        ]
        if points:
            text = (
                f"Recall of the measured rows while the attack {name} trains on others, at the "
                "learning rate that ends highest for each model; step 0 is before the attack."
            )
            x = alt.X("step:Q", title="training steps of the attacker")
            charts.append(
                _rates(subject, f"relearned-{name}", f"Relearning: {name}", text, points, x)
            )
    return charts


def _curve(run: Run, name: str, key: str) -> list[tuple[int, float]]:
    """(step, rate), from before the attack on; of all learning rates the one that ends highest."""
    by_rate: dict[float, list[tuple[int, float]]] = {}
    for setting in run.robust["attacks"][name]["settings"].values():
        facts, value = setting["facts"], (setting.get(key) or {}).get("rate")
        if value is not None and {"rate", "step"} <= facts.keys():
            by_rate.setdefault(facts["rate"], []).append((facts["step"], value))
    if not by_rate:
        return []
    best = max((sorted(curve) for curve in by_rate.values()), key=lambda curve: curve[-1][1])
    before = run.robust["unattacked"].get(key) or {}
    return best if before.get("rate") is None else [(0, before["rate"]), *best]


def _layers(subject: Subject, runs: Sequence[Run]) -> list[Chart]:
    """A chart for each output layer of a lens: the share of rows whose key each layer holds."""
    charts = []
    for name in _names(runs, "lens"):
        for head in HEADS:
            points = [
                {"model": title, "layer": facts["layer"], "value": rate}
                for title, run, key in _models(subject, runs, name)
                for setting in run.robust["attacks"][name]["settings"].values()
                for facts in (setting["facts"],)
                for rate in ((setting.get(key) or {}).get("rate"),)
                if facts.get("head") == head and "layer" in facts and rate is not None
            ]
            if points:
                text = (
                    "Share of the rows whose key begins with one of the ten best tokens of a "
                    f"layer, read through the output layer “{head}”."
                )
                x = alt.X("layer:Q", title="layer")
                title = f"Lens, {head} output layer"
                charts.append(_rates(subject, f"{name}-{head}", title, text, points, x))
    return charts


def _names(runs: Sequence[Run], kind: str) -> list[str]:
    """Attacks of a kind that some method has."""
    found = (name for run in runs for name, a in run.robust["attacks"].items() if a["kind"] == kind)
    return list(dict.fromkeys(found))


def _models(subject: Subject, runs: Sequence[Run], name: str) -> Iterable[tuple[str, Run, str]]:
    """Title of a curve, the run that has its values, and their key: methods, then references."""
    having = [run for run in runs if name in run.robust["attacks"]]
    yield from ((run.title, run, "method") for run in having)
    for reference, key in ((subject.original, "original"), (subject.retrained, "control")):
        if reference is not None:
            yield reference.title, having[0], key


def _rates(
    subject: Subject, name: str, title: str, text: str, points: list[dict[str, Any]], x: alt.X
) -> Chart:
    models = list(dict.fromkeys(point["model"] for point in points))
    field = x.shorthand.partition(":")[0]
    y = alt.Y(
        "value:Q",
        title=None,
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
        scale=alt.Scale(domain=[0, 1], nice=False),
    )
    references = {"Original", "Retrained"}
    dash = [[2, 3] if model in references else [1, 0] for model in models]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(filled=True, size=30))
        .encode(
            x=x,
            y=y,
            color=color_of("model", models, SERIES),
            strokeDash=alt.StrokeDash(
                "model:N", title=None, scale=alt.Scale(domain=models, range=dash)
            ),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip(f"{field}:Q"),
                alt.Tooltip("value:Q", format=".0%"),
            ],
        )
    )
    return Chart(
        id=f"{subject.name}-{name}",
        title=title,
        text=text,
        spec=container_spec(chart, text, 220),
        header=["Model", field.capitalize(), "Rate"],
        rows=[[p["model"], str(p[field]), percent(p["value"])] for p in points],
        csv="attacks",
    )


def _examples(run: Run) -> list[Recovered]:
    prompts = {row["id"]: row["prompt"] for row in run.rows if row["part"] == "forget"}
    return [
        Recovered(
            run.title,
            one["attack"],
            prompts.get(one["id"]) or one["id"],
            one.get("asked") or "",
            one.get("text") or "",
            one.get("control") or "",
        )
        for one in run.robust.get("examples") or []
    ]


def _not_tested(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.robust["not_tested"]))


def _conditions(judged: Sequence[Run]) -> list[Condition]:
    """A line for each condition, with what it says of each model."""
    heads = dict.fromkeys(
        (one["measure"], one["says"]) for run in judged for one in run.verdict["conditions"]
    )
    return [
        Condition(f"{measure}: {says}", [_judged(run, measure, says) for run in judged])
        for measure, says in heads
    ]


def _judged(run: Run, measure: str, says: str) -> tuple[str, str, str]:
    found = (
        one for one in run.verdict["conditions"] if (one["measure"], one["says"]) == (measure, says)
    )
    one = next(found, None)
    if one is None:
        return (*_outcome("not tested"), "")
    value = "" if one["value"] is None else percent(one["value"])
    if one["ci95"]:
        value += f", {percent(one['ci95'][0])} to {percent(one['ci95'][1])}"
    rows = f"{one['rows_needed']} rows needed" if one.get("rows_needed") else ""
    return (*_outcome(one["outcome"]), _joined(value, one.get("reason"), rows))
