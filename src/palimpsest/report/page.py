"""The page: the content of the template, and the one HTML file."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

from palimpsest import __version__
from palimpsest.config.schema import REFERENCES
from palimpsest.io.numbers import duration
from palimpsest.metrics.pairs import Pair, Place, Question, places
from palimpsest.pipeline.stages import STAGES
from palimpsest.report import numbers
from palimpsest.report.answers import examples
from palimpsest.report.assets import asset, environment
from palimpsest.report.charts import sweep_charts, training_charts
from palimpsest.report.columns import Column, columns_of, train_seconds
from palimpsest.report.headlines import best, headlines, interval, stopped
from palimpsest.report.inputs import ORIGINAL, Run, Subject
from palimpsest.report.overview import overview_charts
from palimpsest.report.recovery import recovery
from palimpsest.report.regions import region_charts
from palimpsest.report.tuning import set_by, tuning

FACTS = ("seeds", "device", "packages", "sources", "git")
"""Parts of the provenance that are lists or short values; hashes and config are shown apart."""


SCREEN = 9
"""Columns of a table that fit the width of a desk's screen."""
FEW_PAIRS = 6
"""Most pairs of methods whose tests are not folded away."""
SIDE_BY_SIDE = 3
"""Answers that fit side by side; with more methods the reader chooses."""
AT_A_GLANCE = 8
"""Most methods that need no search."""


@dataclass(frozen=True)
class Cell:
    """One value of the methods table."""

    text: str
    value: float | None
    """The key for sorting; None comes last."""
    tip: str
    low: float | None = None
    high: float | None = None
    sd: str = ""
    """Standard deviation over seeds, where there are several."""
    rows: str = ""
    """Rows of either side, where the value compares two samples."""


def render(subjects: Iterable[Subject], limit: int, tables: str, name: str = "") -> str:
    """The report as one HTML document that needs nothing else.

    Args:
        subjects: the subjects, in the order of the page.
        limit: answers shown side by side per part.
        tables: address of the tables' folder, relative to the page.
        name: the page's name next to the wordmark; empty for the report itself.
    """
    # The stub of vl-convert demands an argument that the function does not.
    vega = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    scripts = [_inert(vega), _inert(asset("page.js"))]
    template = environment().get_template("template.html.j2")
    page = template.render(
        subjects=[_subject(subject, limit) for subject in subjects],
        name=name,
        baselines=REFERENCES,
        tables=tables,
        style=asset("style.css"),
        scripts=scripts,
        policy=_policy(scripts),
        version=__version__,
    )
    return page.lstrip() + "\n"


def tables_address(page: Path, folder: Path) -> str:
    """`folder` as a link from `page`."""
    return Path(os.path.relpath(folder, page.parent)).as_posix()


def page_name(page: Path) -> str:
    """The name of a page other than the report: ``all_methods.html`` is "All methods"."""
    return "" if page.stem == "report" else page.stem.replace("_", " ").capitalize()


def _groups(columns: Iterable[Column]) -> list[tuple[str, list[str]]]:
    groups = itertools.groupby(columns, lambda c: c.group)
    return [(name, [c.key for c in group]) for name, group in groups]


def _inert(script: str) -> str:
    """JavaScript that cannot end its element; both strings may stand in literals only."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Iterable[str]) -> str:
    """Content security policy: no network at all, and no scripts but `scripts`."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _subject(subject: Subject, limit: int) -> dict[str, Any]:
    columns = columns_of(subject.runs)
    ranked = headlines(subject)
    compared = _compared(subject, [headline.method for headline in ranked])
    return {
        "id": subject.name,
        "title": subject.title,
        "scenario": subject.scenario,
        "headlines": ranked,
        "best": best(subject),
        "pairs": _pairs(subject),
        "places": _places(subject),
        "tuning": tuning(subject),
        "recovery": recovery(subject),
        "columns": columns,
        "methods": [_methods(subject, some) for some in _screens(columns, details=False)],
        "details": [_methods(subject, some) for some in _screens(columns, details=True)],
        "each_seed": [_each_seed(subject.runs, some) for some in _screens(columns)],
        "overview": overview_charts(subject),
        "regions": region_charts(subject),
        "confidence": subject.runs[0].confidence,
        "healed": [run.title for run in subject.runs if run.heals_on_reported],
        "runs": [
            {"name": run.method, "title": run.title, "shown": run.method in compared}
            for run in subject.runs
        ],
        "parts": examples(subject, limit) if subject.texts else [],
        "texts": subject.texts,
        "seeds": max(len(run.seeds) for run in subject.runs),
        "sweep": sweep_charts(subject),
        "training": training_charts(subject),
        "cost": _cost(subject.runs),
        "algorithms": _algorithms(subject.runs),
        "at_a_glance": len(subject.runs) <= AT_A_GLANCE,
        "column_groups": _by_group(columns),
        "provenance": _provenance(subject.runs),
        "foreign_code": _foreign_code(subject.runs),
    }


def _screens(columns: Sequence[Column], details: bool | None = None) -> list[list[Column]]:
    """Columns for one table after another, groups whole where they fit the width of a screen."""
    chosen = [c for c in columns if details is None or c.details == details]
    tables: list[list[Column]] = []
    for _, group in itertools.groupby(chosen, lambda c: c.group):
        for piece in _pieces(list(group)):
            if tables and len(tables[-1]) + len(piece) <= SCREEN:
                tables[-1] += piece
            else:
                tables.append(piece)
    return tables


def _pieces(group: list[Any]) -> list[list[Any]]:
    return [group[i : i + SCREEN] for i in range(0, len(group), SCREEN)]


def _pairs(subject: Subject) -> dict[str, Any]:
    """Every two methods, a column per question: what the tests say of the first one."""
    titles = {run.method: run.title for run in subject.runs}
    questions = list(dict.fromkeys(pair.question for pair in subject.pairs))
    lines: dict[tuple[str, str], dict[Question, Pair]] = {}
    for pair in subject.pairs:
        lines.setdefault((pair.method, pair.other), {})[pair.question] = pair
    return {
        "questions": questions,
        "rows": [
            {
                "methods": (method, other),
                "titles": (titles[method], titles[other]),
                "cells": [found.get(question) for question in questions],
            }
            for (method, other), found in lines.items()
        ],
        "tip": _pair_tip,
        "open": len(lines) <= FEW_PAIRS,
    }


def _pair_tip(pair: Pair) -> str:
    """``−8 pp, interval −17 pp to −2 pp, p 0.13, 48 rows``."""
    form = numbers.signed_decimal if pair.question.column == "mean_logprob" else numbers.change
    change = pair.change
    ends = change["ci95"]
    between = "" if ends is None else f", interval {form(ends[0])} to {form(ends[1])}"
    rows = change.get("groups") or change["n"]
    return f"{form(change['value'])}{between}, p {pair.adjusted:.2g}, {rows} rows"


def _places(subject: Subject) -> dict[str, Any]:
    """Where each method may stand by each question, and the methods that have no place."""
    methods = [run for run in subject.runs if run.method not in REFERENCES]
    found = places(subject.pairs, {run.method for run in methods if run.ranked})
    return {
        "questions": list(found),
        "rows": [
            {
                "method": run.method,
                "title": run.title,
                "cells": [_place(of_question.get(run.method)) for of_question in found.values()],
            }
            for run in methods
            if run.ranked
        ],
        "unranked": [run.title for run in methods if not run.ranked],
    }


def _place(place: Place | None) -> str:
    """``2 to 5 of 12``; the number alone where all others are told apart."""
    if place is None:
        return "not measured"
    first, last, of = place
    return f"{first} of {of}" if first == last else f"{first} to {last} of {of}"


def _methods(subject: Subject, columns: Sequence[Column]) -> dict[str, Any]:
    """A table with a line per method; the page leaves it out if it has no columns."""
    rows = [
        {
            "name": run.method,
            "title": run.title,
            "label": run.method if run.method != run.title else "",
            "judge": run.eval["metrics"].get("harm_judge"),
            "stopped": stopped(run),
            "set": set_by(run, subject),
            "unranked": "" if run.ranked else "No setting met the conditions of its search.",
            "cells": [_cell(run, column) for column in columns],
        }
        for run in subject.runs
    ]
    return _table(columns, rows)


def _each_seed(runs: Sequence[Run], columns: Sequence[Column]) -> dict[str, Any]:
    """A table with a line per seed of the methods with several seeds; empty if there are none."""
    several = [run for run in runs if len(run.seeds) > 1]
    shown = [c for c in columns if any(c.measure(run).get("per_seed") for run in several)]
    rows = [
        {
            "name": run.method,
            "title": run.title,
            "label": f"seed {seed}",
            "judge": None,
            "stopped": "",
            "set": "",
            "unranked": "",
            "cells": [_seed_cell(column.measure(run), place, column) for column in shown],
        }
        for run in several
        for place, seed in enumerate(run.seeds)
    ]
    return _table(shown, rows)


def _table(columns: Sequence[Column], rows: list[dict[str, Any]]) -> dict[str, Any]:
    groups = _groups(columns)
    firsts = [keys[0] for _, keys in groups]
    reasons = _reasons(row["cells"] for row in rows)
    return {
        "columns": columns,
        "groups": groups,
        "firsts": firsts,
        "rows": rows,
        "reasons": reasons,
    }


def _reasons(rows: Iterable[Iterable[Cell]]) -> list[str]:
    """Why cells have no value, each reason once: the notes below a table."""
    return list(dict.fromkeys(c.tip for cells in rows for c in cells if c.text == numbers.DASH))


def _by_group(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """The columns by the head above them, for the reader to choose from."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column)
    return groups


def _algorithms(runs: Sequence[Run]) -> dict[str, str]:
    """Method -> its algorithm; methods that were trained by none are left out."""
    found = {}
    for run in runs:
        slices = (run.eval["provenance"].get("config") or {}).values()
        settings = [s.get("settings") for s in slices if isinstance(s, Mapping)]
        names = [s["algorithm"] for s in settings if isinstance(s, Mapping) and "algorithm" in s]
        if names:
            found[run.method] = str(names[0])
    return found


def _compared(subject: Subject, ranked: list[str]) -> set[str]:
    """Methods whose answers stand side by side at first: all, or before and the best ones."""
    methods = [run.method for run in subject.runs]
    if len(methods) <= SIDE_BY_SIDE:
        return set(methods)
    first = [method for method in (ORIGINAL, *ranked, *methods) if method in methods]
    return set(list(dict.fromkeys(first))[:SIDE_BY_SIDE])


def _cell(run: Run, column: Column) -> Cell:
    measure = column.measure(run)
    value = measure["value"]
    if value is None:
        return Cell(numbers.DASH, None, measure.get("reason") or "not measured")
    low, high = measure.get("ci95") or (None, None)
    tip = interval(measure, column.text, run.confidence)
    sd = "" if measure.get("sd") is None else f"± {column.text(measure['sd'])}"
    sides = [measure["n"], *measure["others"]] if measure.get("others") else []
    rows = f"n {' and '.join(map(str, sides))}" if sides else ""
    return Cell(column.text(value), value, tip, low, high, sd, rows)


def _seed_cell(measure: Mapping[str, Any], place: int, column: Column) -> Cell:
    values = measure.get("per_seed")
    if not values:
        return Cell(numbers.DASH, None, measure.get("reason") or "not measured for each seed")
    return Cell(column.text(values[place]), values[place], "")


@dataclass(frozen=True)
class Quantity:
    """A column of the cost table."""

    label: str
    values: list[float | None]
    """One per method."""
    form: Callable[[float], str]
    reason: str
    """Why a method has no value."""
    total: float | None = None
    """Of all methods together; None where there is nothing to add up."""


def _cost(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Tables of the cost: stages in the order in which they run, sums, then the size of the work.

    What is done once for all methods counts once in the line of all methods together.
    """
    quantities = [*_times(runs), *_sizes(runs)]
    shown = [one for one in quantities if any(value is not None for value in one.values)]
    return [_cost_table(runs, piece) for piece in _pieces(shown)]


def _cost_table(runs: Sequence[Run], shown: Sequence[Quantity]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "name": run.method,
            "title": run.title,
            "cells": [_cost_cell(one, one.values[place]) for one in shown],
        }
        for place, run in enumerate(runs)
    ]
    return {
        "heads": [one.label for one in shown],
        "rows": rows,
        "totals": ["" if one.total is None else one.form(one.total) for one in shown],
        "reasons": _reasons(row["cells"] for row in rows),
    }


def _times(runs: Sequence[Run]) -> list[Quantity]:
    seconds = [run.eval["cost"].get("wall_s") or {} for run in runs]
    stages = []
    for stage in in_order(stage for times in seconds for stage in times):
        values = [times.get(stage) for times in seconds]
        known = [value for value in values if value is not None]
        shared = len(known) > 1 and _shared_stage(stage)
        label = f"{stage} (once for all methods)" if shared else stage
        total = max(known, default=0.0) if shared else math.fsum(known)
        stages.append(Quantity(label, values, duration, "this method does without it", total))
    alone = [train_seconds(run)["value"] for run in runs]
    total_alone = math.fsum(value for value in alone if value is not None)
    everything = [_sum(times.values()) for times in seconds]
    total = math.fsum(one.total or 0.0 for one in stages)
    return [
        *stages,
        Quantity("this method alone", alone, duration, "nothing was trained", total_alone),
        Quantity("in all", everything, duration, "no time was noted", total),
    ]


def _sizes(runs: Sequence[Run]) -> list[Quantity]:
    found = []
    for label, key, form, reason in (
        ("peak memory", "peak_rss_mb", numbers.megabytes, "not noted"),
        ("peak GPU memory", "peak_gpu_mb", numbers.megabytes, "no GPU was used"),
        ("trained parameters", "trained_parameters", numbers.count, "nothing was trained"),
        ("steps", "steps", numbers.count, "nothing was trained"),
    ):
        values = [run.eval["cost"].get(key) for run in runs]
        known = [value for value in values if value is not None]
        most = max(known, default=None) if key.startswith("peak") else None
        found.append(Quantity(label, values, form, reason, most))
    return found


def _cost_cell(one: Quantity, value: float | None) -> Cell:
    if value is None:
        return Cell(numbers.DASH, None, one.reason)
    return Cell(one.form(value), value, "")


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def in_order(stages: Iterable[str]) -> list[str]:
    """Stages in the order in which they run; those that this version does not have come last."""
    places = {name: place for place, name in enumerate(STAGES)}
    return sorted(dict.fromkeys(stages), key=lambda name: places.get(name.split()[0], len(places)))


def _shared_stage(stage: str) -> bool:
    """Whether one run of the stage serves every method."""
    return stage in STAGES and not {"method", "run"} & set(STAGES[stage].per)


def _provenance(runs: list[Run]) -> dict[str, Any]:
    """Hashes and facts that all runs share, shown once, and those of each run."""
    each = [_with_changes(run.eval["provenance"]) for run in runs]
    return {
        "shared": _provenance_block(_shared(each)),
        "runs": [
            {"title": run.title, **_provenance_block(_without(provenance, _shared(each)))}
            for run, provenance in zip(runs, each, strict=True)
        ],
    }


def _with_changes(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The commit does not tell what ran where files had been changed since: the text says so."""
    if not (provenance.get("git") and provenance.get("git_changed")):
        return dict(provenance)
    return {**provenance, "git": f"{provenance['git']}, with changed files"}


def _foreign_code(runs: list[Run]) -> bool:
    """Whether a stage ran Python code that the base model's repository carries."""
    slices = (c for run in runs for c in (run.eval["provenance"].get("config") or {}).values())
    return any(isinstance(c, Mapping) and c.get("trust_remote_code") for c in slices)


def _provenance_block(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hashes": [
            (kind, name, value)
            for kind in ("data", "model")
            for name, value in sorted((provenance.get(kind) or {}).items())
        ],
        "facts": [(key, _plain(provenance[key])) for key in FACTS if provenance.get(key)],
        "config": json.dumps(provenance["config"], indent=2, sort_keys=True)
        if provenance.get("config")
        else "",
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()) if v is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _shared(each: list[dict[str, Any]]) -> dict[str, Any]:
    """The entries that are equal in all of `each`; tables of hashes are compared line by line."""
    first, *others = each
    shared: dict[str, Any] = {}
    for key, value in first.items():
        if key in ("data", "model") and isinstance(value, dict):
            shared[key] = {
                name: digest
                for name, digest in value.items()
                if all((o.get(key) or {}).get(name) == digest for o in others)
            }
        elif all(o.get(key) == value for o in others):
            shared[key] = value
    return shared


def _without(provenance: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, value in provenance.items():
        if key in ("data", "model") and isinstance(value, dict):
            rest[key] = {n: d for n, d in value.items() if n not in (shared.get(key) or {})}
        elif key not in shared:
            rest[key] = value
    return rest
