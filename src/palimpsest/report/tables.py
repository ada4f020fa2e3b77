"""The report's tables, for other programs: csv and parquet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from palimpsest.io.atomic import write_text
from palimpsest.io.tables import write_table
from palimpsest.metrics.pairs import places
from palimpsest.metrics.summary import SWEPT
from palimpsest.report.columns import all_columns
from palimpsest.report.inputs import TEXTS as TEXTS_OF_ROWS
from palimpsest.report.inputs import Run, Subject, Tuned
from palimpsest.report.tuning import expected_lines, summary

TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TEXTS = pa.list_(TEXT)
FORMULA = tuple("=+-@\t\r\n")
"""What a cell begins with that a spreadsheet may take for a formula."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
Fields = dict[str, pa.DataType]
"""Column -> type, in the order of the table."""

_RUN: Fields = {"model": TEXT, "method": TEXT}
_ID = _RUN | {"seed": WHOLE}
_ANSWERS = (
    _ID
    | dict.fromkeys(("part", "id", "prompt", "response", "answer"), TEXT)
    | {"key": TEXTS}
    | dict.fromkeys(("recall", "degenerate", "harmful", "exact_match"), FLAG)
    | dict.fromkeys(("rouge_l", "accuracy", "perplexity", "probability"), REAL)
)
_SWEEP = (
    _ID | {"scale": REAL, "part": TEXT, "n": WHOLE} | dict.fromkeys((*SWEPT, "perplexity"), REAL)
)
_TRAINING = (
    _ID
    | {"step": WHOLE, "steps": WHOLE}
    | dict.fromkeys(("loss", "lr", "grad_norm"), REAL)
    | {"tokens": WHOLE, "seconds": REAL, "ended": TEXT}
)
_REGIONS = (
    _ID
    | {"tensor": TEXT, "layer": WHOLE, "module": TEXT, "matrix": TEXT}
    | {"cosine": REAL, "magnitude": REAL, "selected": FLAG}
)
_PAIRS = (
    _RUN
    | {"other": TEXT, "part": TEXT, "column": TEXT, "better": TEXT}
    | dict.fromkeys(("change", "low", "high"), REAL)
    | dict.fromkeys(("n", "groups", "seeds", "other_seeds"), WHOLE)
    | {"p": REAL, "adjusted_p": REAL, "verdict": TEXT}
)
_PLACES = (
    _RUN
    | dict.fromkeys(("part", "column", "better"), TEXT)
    | dict.fromkeys(("first", "last", "of"), WHOLE)
)
_TRIALS = (
    _RUN
    | {"trial": TEXT, "scale": REAL}
    | dict.fromkeys(("settings", "status", "reason"), TEXT)
    | dict.fromkeys(("forget", "retain", "general", "degenerate", "x", "y"), REAL)
    | dict.fromkeys(("feasible", "front", "chosen"), FLAG)
    | {"seconds": REAL, "optimizer_rows": WHOLE}
)
_TUNING = (
    _RUN
    | {"plan": TEXT, "trials": WHOLE, "stopped": WHOLE, "feasible": FLAG, "trial": TEXT}
    | {"scale": REAL, "settings": TEXT, "why": TEXT, "seconds": REAL, "hypervolume": REAL}
    | {"rows_hash": TEXT}
    | {
        f"{part}_{name}": kind
        for part in ("forget", "retain")
        for name, kind in (
            *dict.fromkeys(("by_hand", "chosen", "reported", "optimism"), REAL).items(),
            *dict.fromkeys(("rows_choosing", "rows_reporting"), WHOLE).items(),
        )
    }
)
_EXPECTED = _RUN | {"trials": WHOLE, "value": REAL}
_ATTACKS = (
    _RUN
    | dict.fromkeys(("attack", "kind", "level", "unit", "control"), TEXT)
    | dict.fromkeys(("recovered", "low", "high", "gap", "power"), REAL)
    | dict.fromkeys(("rate", "rate_original", "rate_control"), REAL)
    | {"weak": FLAG, "weak_why": TEXT, "rate_at_edge": FLAG}
    | dict.fromkeys(("retain", "retain_original", "retain_control"), REAL)
    | dict.fromkeys(("no_text", "no_text_original", "no_text_control"), REAL)
    | {"slice": TEXT}
)
_COPIED = ("kind", "level", "unit", "control", "weak", "weak_why", "rate_at_edge", "slice")
"""Columns that stand so in robust.json."""
_COST = _RUN | {"quantity": TEXT, "stage": TEXT, "value": REAL}


def report_tables(subjects: Iterable[Subject]) -> dict[str, pa.Table]:
    """The tables by name, each written as csv and as parquet."""
    subjects = list(subjects)
    return {
        "methods": _methods(subjects),
        "seeds": _seeds(subjects),
        "pairs": _select(_pairs(subjects), _PAIRS),
        "places": _select(list(_places(subjects)), _PLACES),
        "trials": _select(_of_searches(subjects, lambda _, tuned: tuned.trials), _TRIALS),
        "tuning": _select(_of_searches(subjects, lambda *one: [summary(*one)]), _TUNING),
        "expected_best": _select(_of_searches(subjects, lambda _, x: expected_lines(x)), _EXPECTED),
        "attacks": _select(list(_attacks(subjects)), _ATTACKS),
        "answers": _select(_each(subjects, "rows"), _answers(subjects)),
        "sweep": _select(_each(subjects, "sweep"), _SWEEP),
        "training": _training(subjects),
        "regions": _select(_regions(subjects), _REGIONS),
        "cost": _select(_cost(subjects), _COST),
    }


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> None:
    """Write each table as ``folder/{name}.parquet`` and ``folder/{name}.csv``.

    In csv a list is one cell, its strings joined by `` | ``, and a text that a spreadsheet would
    take for a formula begins with an apostrophe; parquet has every text as it is.
    """
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
        buffer = io.BytesIO()
        pyarrow.csv.write_csv(for_spreadsheets(table), buffer)
        write_text(folder / f"{name}.csv", buffer.getvalue().decode())


def _methods(subjects: list[Subject]) -> pa.Table:
    fields = _RUN | {"title": TEXT}
    columns = all_columns(run for subject in subjects for run in subject.runs)
    for column in columns:
        fields[column.key] = REAL
        if column.group != "Cost":
            fields |= {f"{column.key}_{end}": REAL for end in ("low", "high", "sd")}
            fields[f"{column.key}_n"] = WHOLE
    lines = []
    for subject in subjects:
        for run in subject.runs:
            line: dict[str, Any] = {
                "model": subject.name,
                "method": run.method,
                "title": run.title,
            }
            for column in columns:
                measure = column.measure(run)
                low, high = measure.get("ci95") or (None, None)
                line |= {
                    column.key: measure["value"],
                    f"{column.key}_low": low,
                    f"{column.key}_high": high,
                    f"{column.key}_sd": measure.get("sd"),
                    f"{column.key}_n": measure.get("n"),
                }
            lines.append(line)
    return _select(lines, fields)


def _attacks(subjects: list[Subject]) -> Iterable[dict[str, Any]]:
    """A line per method and attack."""
    for subject in subjects:
        for run in subject.runs:
            of_run = {"model": subject.name, "method": run.method}
            for block in ("attacks", "form"):
                for name, attack in (run.robust.get(block) or {}).items():
                    low, high = attack["recovered"]["ci95"] or (None, None)
                    rates = attack["rates"]
                    yield of_run | {
                        **{key: attack[key] for key in _COPIED},
                        **_damage(attack["damage"]),
                        "attack": name,
                        "recovered": attack["recovered"]["value"],
                        "low": low,
                        "high": high,
                        "gap": attack["gap"]["value"],
                        "power": attack["power"]["value"],
                        "rate": rates["method"],
                        "rate_original": rates["original"],
                        "rate_control": rates["control"],
                    }


def _damage(of_models: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """What each attacked model keeps, and the share of its answers that are broken."""
    ends = {"method": "", "original": "_original", "control": "_control"}
    names = {"retain": "retain_recall", "no_text": "degenerate"}
    return {
        f"{name}{end}": of_models.get(model, {}).get(rate)
        for model, end in ends.items()
        for name, rate in names.items()
    }


def _answers(subjects: list[Subject]) -> Fields:
    if all(subject.texts for subject in subjects):
        return _ANSWERS
    return {name: kind for name, kind in _ANSWERS.items() if name not in TEXTS_OF_ROWS}


def _seeds(subjects: list[Subject]) -> pa.Table:
    """One line per seed of the methods with several seeds, a column per measure."""
    columns = all_columns(run for subject in subjects for run in subject.runs)
    lines = []
    for subject in subjects:
        for run in (run for run in subject.runs if len(run.seeds) > 1):
            values_of = {c.key: c.measure(run).get("per_seed") for c in columns}
            lines += [
                {"model": subject.name, "method": run.method, "seed": seed}
                | {key: values[place] for key, values in values_of.items() if values}
                for place, seed in enumerate(run.seeds)
            ]
    return _select(lines, _ID | {column.key: REAL for column in columns})


def _each(subjects: list[Subject], attribute: str) -> list[dict[str, Any]]:
    return [
        {"model": subject.name, "method": run.method, **line}
        for subject in subjects
        for run in subject.runs
        for line in getattr(run, attribute)
    ]


def _cost(subjects: list[Subject]) -> list[dict[str, Any]]:
    """``cost`` of eval.json, a line per quantity; ``wall_s`` has one per stage."""
    lines = []
    for subject in subjects:
        for run in subject.runs:
            run_id = {"model": subject.name, "method": run.method}
            quantities = dict(run.eval["cost"])
            for stage, seconds in (quantities.pop("wall_s", None) or {}).items():
                lines.append({**run_id, "quantity": "wall_s", "stage": stage, "value": seconds})
            lines += [
                {**run_id, "quantity": name, "value": value} for name, value in quantities.items()
            ]
    return lines


def _pairs(subjects: list[Subject]) -> list[dict[str, Any]]:
    """Every two methods by every question, see `palimpsest.metrics.pairs`."""
    lines = []
    for subject in subjects:
        for pair in subject.pairs:
            low, high = pair.change["ci95"] or (None, None)
            lines.append(
                {
                    "model": subject.name,
                    "method": pair.method,
                    "other": pair.other,
                    "part": pair.question.block,
                    "column": pair.question.column,
                    "better": pair.question.better,
                    "change": pair.change["value"],
                    "low": low,
                    "high": high,
                    "n": pair.change["n"],
                    "groups": pair.change.get("groups") or pair.change["n"],
                    "seeds": pair.seeds[0],
                    "other_seeds": pair.seeds[1],
                    "p": pair.p,
                    "adjusted_p": pair.adjusted,
                    "verdict": pair.verdict,
                }
            )
    return lines


def _places(subjects: list[Subject]) -> Iterable[dict[str, Any]]:
    """A line per ranked method and question."""
    for subject in subjects:
        ranked = {run.method for run in subject.runs if run.ranked}
        for question, of_question in places(subject.pairs, ranked).items():
            asked = {"part": question.block, "column": question.column, "better": question.better}
            for method, place in of_question.items():
                yield {"model": subject.name, "method": method, **asked, **place._asdict()}


def _of_searches(
    subjects: list[Subject], lines_of: Callable[[Run, Tuned], Iterable[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Lines on the search of each tuned method."""
    return [
        {"model": subject.name, "method": run.method, **line}
        for subject in subjects
        for run in subject.runs
        if run.tuned is not None
        for line in lines_of(run, run.tuned)
    ]


def _regions(subjects: list[Subject]) -> list[dict[str, Any]]:
    return [
        {"model": subject.name, "method": run.method, "seed": region.seed, **line}
        for subject in subjects
        for run in subject.runs
        for region in run.regions
        for line in region.tensors
    ]


def _training(subjects: list[Subject]) -> pa.Table:
    lines = [
        {"model": subject.name, "method": "subject", **line}
        for subject in subjects
        for line in subject.pretraining
    ] + _each(subjects, "training")
    terms = sorted({name for line in lines for name in line.get("terms") or {}})
    for line in lines:
        line |= {f"term_{name}": value for name, value in (line.get("terms") or {}).items()}
    return _select(lines, _TRAINING | {f"term_{name}": REAL for name in terms})


def _select(lines: list[dict[str, Any]], fields: Fields) -> pa.Table:
    """A table of exactly `fields`; missing values are null."""
    columns = {
        name: pa.array([_cast(line.get(name), kind) for line in lines], type=kind)
        for name, kind in fields.items()
    }
    return pa.table(columns)


def _cast(value: Any, kind: pa.DataType) -> Any:
    return float(value) if pa.types.is_floating(kind) and value is not None else value


def for_spreadsheets(table: pa.Table) -> pa.Table:
    """The table with lists as texts, and without texts that a spreadsheet would compute."""
    for index, field in enumerate(table.schema):
        cells = table[index].to_pylist()
        if pa.types.is_list(field.type):
            cells = [None if cell is None else " | ".join(cell) for cell in cells]
        elif not pa.types.is_string(field.type):
            continue
        plain = [None if cell is None else harmless(cell) for cell in cells]
        table = table.set_column(index, field.name, pa.array(plain, pa.string()))
    return table


def harmless(text: str) -> str:
    """`text`, after an apostrophe if it begins like a formula and is no number."""
    return f"'{text}" if text[:1] in FORMULA and not NUMBER.fullmatch(text) else text
