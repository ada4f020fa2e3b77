"""Lines of ``docs/leaderboard.csv``: one finished method each, with all that its place needs.

A line holds the answers of every row, so that methods of several machines can be tested against
each other: 1 or 0 for each row in the order of ids, groups of rows apart by a space, seeds by a
slash. The places of all lines are computed anew whenever one is added.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.config.schema import REFERENCES
from palimpsest.errors import UserError
from palimpsest.io.artifacts import EVAL, ROBUST, ROWS, VERDICT
from palimpsest.io.atomic import write_text
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.pairs import Question, page_pairs, places
from palimpsest.report.columns import own_seconds

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str]

FILE = Path("docs/leaderboard.csv")

FORGOTTEN = Question("forget", "forgotten", "high", "Forgotten")
KEPT = Question("retain", "recall", "high", "Kept")
MEASURES = {"forgotten": "forget.forgotten_rate", "kept": "retain.recall_rate"}
"""Name in a line -> the measure of eval.json."""
TESTED = {"forgotten": FORGOTTEN, "kept": KEPT}
"""The same -> the question by which methods are compared."""
NUMBERS = (*MEASURES, "recoverable")
"""Values with an interval and a deviation over seeds."""
TUNED, HAND, REFERENCE = "tuned", "by hand", "reference"

FIELDS = (
    "subject",
    "method",
    "title",
    "set",
    *(f"{name}{end}" for name in NUMBERS for end in ("", "_low", "_high", "_sd", "_n")),
    "recoverable_worst",
    "verdict",
    "criteria",
    "training_s",
    "search_s",
    "plan",
    "trials",
    "stopped",
    "feasible",
    "scale",
    "settings",
    "chosen_on_forget",
    "chosen_on_retain",
    "choosing_rows",
    "seeds",
    "commit",
    "changed",
    "device",
    "cores",
    "dtype",
    "torch",
    *(f"{name}_{what}" for name in TESTED for what in ("first", "last", "of", "rows", "answers")),
)
"""Columns of the file."""


def row_of(folder: Path, title: str) -> Row:
    """The line of a finished method.

    Args:
        folder: ``results/<model>/<method>``: eval.json, rows.parquet, robust.json, verdict.json.
        title: name shown.

    Raises:
        UserError: one of the files is missing or altered.
    """
    found, robust = read_document(folder / EVAL), read_document(folder / ROBUST)
    verdict = read_document(folder / VERDICT)
    provenance, tuning = found["provenance"], found.get("tuning") or {}
    line: dict[str, Any] = {
        "subject": found["model"],
        "method": found["method"],
        "title": title,
        "set": REFERENCE if found["method"] in REFERENCES else TUNED if tuning else HAND,
        "recoverable_worst": robust["worst"],
        "verdict": verdict["outcome"],
        "criteria": verdict["criteria"],
        "training_s": own_seconds(found["cost"]["wall_s"]),
        "search_s": tuning.get("seconds"),
        "seeds": " ".join(map(str, provenance["seeds"])),
        "commit": provenance["git"],
        "changed": provenance.get("git_changed"),
        "device": provenance["device"],
        "cores": len(os.sched_getaffinity(0)),
        "dtype": provenance["dtype"],
        "torch": provenance["packages"].get("torch"),
    }
    for name, path in MEASURES.items():
        block, measure = path.split(".")
        line |= _estimate(name, found["metrics"][block].get(measure))
    line |= _estimate("recoverable", robust["recoverable"])
    if tuning:
        line |= {key: tuning[key] for key in ("plan", "trials", "stopped", "feasible")}
        line |= {
            "scale": tuning["chosen"]["scale"],
            "settings": json.dumps(tuning["chosen"]["settings"], sort_keys=True),
            "choosing_rows": tuning["rows_hash"],
            "chosen_on_forget": tuning["chosen_on"]["forget"],
            "chosen_on_retain": tuning["chosen_on"].get("retain"),
        }
    frame = read_table(folder / ROWS)[0].to_pandas()
    for name, question in TESTED.items():
        line |= _answers(name, question, frame)
    return {field: _text(line.get(field)) for field in FIELDS}


def read(path: Path) -> list[Row]:
    """The lines of the file; none if there is no file.

    Raises:
        UserError: a column is missing, or a line stands twice.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in FIELDS if name not in (reader.fieldnames or ())]
        rows = [{name: line[name] or "" for name in FIELDS} for line in reader if not missing]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; add them to its first line, empty"
        )
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (key := key_of(row)) in seen:
            raise UserError(f"{path} has {'/'.join(key)} twice; take one of the lines out")
        seen.add(key)
    return rows


def write(path: Path, rows: Sequence[Row], confidence: float) -> None:
    """Write the lines, with the places of all of them.

    Args:
        path: the file.
        rows: lines in their order.
        confidence: that of every test together, see `palimpsest.metrics.pairs`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(placed(rows, confidence))
    write_text(path, text.getvalue())


def placed(rows: Sequence[Row], confidence: float) -> list[Row]:
    """The lines with the places of tuned methods whose search met its conditions.

    Compared are those of a subject that were measured on the same rows, by the most of them.
    """
    ranked = [row for row in rows if row["set"] == TUNED and row["feasible"] == "true"]
    subjects = {}
    for subject in dict.fromkeys(row["subject"] for row in ranked):
        own = [row for row in ranked if row["subject"] == subject]
        subjects[subject] = {row["method"]: _frame(row) for row in _alike(own)}
    found = page_pairs(subjects, confidence, tuple(TESTED.values()))
    by_question = {subject: places(found[subject], frames) for subject, frames in subjects.items()}
    lines = []
    for row in rows:
        own_places: dict[str, str] = {}
        for name, question in TESTED.items():
            of_method = by_question.get(row["subject"], {}).get(question, {})
            place = of_method.get(row["method"]) if row in ranked else None
            for part in ("first", "last", "of"):
                own_places[f"{name}_{part}"] = _text(place and getattr(place, part))
        lines.append(row | own_places)
    return lines


def key_of(row: Mapping[str, str]) -> tuple[str, str]:
    """What sets a line apart: subject and method."""
    return row["subject"], row["method"]


def _alike(rows: list[Row]) -> Iterable[Row]:
    """Those of the rows that had the same search, seeds and questions as most of them."""
    kinds = [
        (
            *(row[key] for key in ("plan", "trials", "choosing_rows")),
            len(row["seeds"].split()),
            *(row[f"{name}_rows"] for name in TESTED),
        )
        for row in rows
    ]
    most = max(dict.fromkeys(kinds), key=kinds.count)
    return (row for row, kind in zip(rows, kinds, strict=True) if kind == most)


def _estimate(name: str, estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    low, high = estimate["ci95"] or (None, None)
    return {
        name: estimate["value"],
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_sd": estimate["sd"],
        f"{name}_n": estimate["n"],
    }


def _answers(name: str, question: Question, frame: pd.DataFrame) -> dict[str, str]:
    """Which rows were asked, by a hash, and what each seed says of them."""
    if question.column not in frame:
        return {}
    lines = frame[frame["part"] == question.block].dropna(subset=[question.column])
    seeds = lines["seed"].nunique()
    whole = lines.groupby("id").filter(lambda of_row: len(of_row) == seeds)
    ordered = whole.sort_values(["seed", "group", "id"])
    first = ordered.drop_duplicates("id")
    asked = json.dumps(first[["group", "id"]].to_numpy().tolist())
    texts = []
    for _, of_seed in ordered.groupby("seed"):
        groups = of_seed.groupby("group", sort=False)[question.column]
        texts.append(" ".join("".join(str(int(v)) for v in values) for _, values in groups))
    return {
        f"{name}_rows": hashlib.sha256(asked.encode()).hexdigest()[:16] if texts else "",
        f"{name}_answers": "/".join(texts),
    }


def _frame(row: Row) -> pd.DataFrame:
    """The answers of a line as rows of rows.parquet."""
    import pandas as pd  # slow to import

    lines = []
    for name, question in TESTED.items():
        for seed, text in enumerate(row[f"{name}_answers"].split("/")):
            for group, answers in enumerate(text.split()):
                lines += [
                    {
                        "seed": seed,
                        "part": question.block,
                        "id": f"{group:05d}-{place:03d}",
                        "group": f"{group:05d}",
                        question.column: answer == "1",
                    }
                    for place, answer in enumerate(answers)
                ]
    return pd.DataFrame(lines, columns=["seed", "part", "id", "group", "forgotten", "recall"])


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
