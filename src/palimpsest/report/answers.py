"""Answers before and after, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.config.schema import REFERENCES
from palimpsest.report.diff import Span, marked
from palimpsest.report.inputs import ORIGINAL, Run, Subject

PARTS = {
    "forget": "To forget",
    "forget_unseen": "To forget, in other words",
    "forget_prompted": "To forget, with a prompt",
    "forget_chat": "To forget, in the chat template",
    "retain": "To keep",
    "retain_unseen": "To keep, in other words",
    "retain_prompted": "To keep, with a prompt",
    "retain_chat": "To keep, in the chat template",
    "general": "General",
}
"""Parts, in the order of the page -> their titles."""

_VERDICTS = {
    "forget": ("still answers", "forgotten", False),
    "retain": ("kept", "lost", True),
}
"""Kind of part -> labels of a recalled and of a not recalled row, and which of them is good."""

_NEW = {
    "forget": ("answers now", "not known before", False),
    "retain": ("learned", "not known before", True),
}
"""The same for rows that the subject did not recall before: it can neither forget nor lose them."""


@dataclass(frozen=True)
class Answer:
    """One method's answer to one question."""

    method: str
    title: str
    spans: list[Span]
    verdict: str
    tone: str
    """``good``, ``bad`` or empty."""
    words: str
    """Text that the search covers."""


@dataclass(frozen=True)
class Example:
    """One question with the answer of every method."""

    id: str
    part: str
    prompt: str
    response: list[Span]
    answers: list[Answer]


@dataclass(frozen=True)
class PartOfExamples:
    """The examples of one part, and the number of all answered rows."""

    name: str
    title: str
    examples: list[Example]
    total: int


def examples(subject: Subject, limit: int) -> list[PartOfExamples]:
    """The first `limit` answered rows of each part, in the order of the data.

    No row is selected by hand. With several seeds, the answers are those of the first one.
    """
    tables = [_by_id(run) for run in subject.runs]
    parts = []
    for part, title in PARTS.items():
        ids = list(dict.fromkeys(i for table in tables for p, i in table if p == part))
        if ids:
            shown = [_example(subject.runs, tables, part, i) for i in ids[:limit]]
            parts.append(PartOfExamples(part, title, shown, len(ids)))
    return parts


def _by_id(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    first_rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in run.rows:
        # All rows have likelihoods; a part of them may have no answer.
        if row["answer"] is not None:
            first_rows.setdefault((row["part"], row["id"]), row)
    return first_rows


def _example(
    runs: Sequence[Run],
    tables: Sequence[dict[tuple[str, str], dict[str, Any]]],
    part: str,
    row_id: str,
) -> Example:
    rows = [(run, table.get((part, row_id))) for run, table in zip(runs, tables, strict=True)]
    any_row = next(row for _, row in rows if row is not None)
    original = next((row for run, row in rows if row and run.method == ORIGINAL), None)
    keys = any_row["key"] or []
    return Example(
        id=row_id,
        part=part,
        prompt=any_row["prompt"],
        response=marked(any_row["response"], keys),
        answers=[_answer(run, row, keys, original) for run, row in rows if row is not None],
    )


def _answer(
    run: Run, row: dict[str, Any], keys: Sequence[str], original: dict[str, Any] | None
) -> Answer:
    knew = original is None or original["recall"] is not False
    verdict, tone = _judge(run.method, row, knew)
    first = None if original is None or run.method == ORIGINAL else original["answer"]
    return Answer(
        method=run.method,
        title=run.title,
        spans=marked(row["answer"], keys, first),
        verdict=verdict,
        tone=tone,
        words=row["answer"],
    )


def _judge(method: str, row: dict[str, Any], knew: bool) -> tuple[str, str]:
    """The label and the tone of a row; `knew`: whether the subject recalled it before."""
    part, recalled = row["part"], row["recall"]
    # A garbled or broken answer is no answer: it can be neither forgotten nor lost.
    if not recalled and (row["degenerate"] or row.get("garbled")):
        return ("broken" if row["degenerate"] else "garbled"), "bad"
    if recalled is None:
        return "not scored", ""
    if method in REFERENCES:
        return ("says it" if recalled else "does not say it"), ""
    if (kind := part.split("_")[0]) not in _VERDICTS:
        return ("right" if recalled else "other"), ""
    yes, no, good = (_VERDICTS if knew else _NEW)[kind]
    if not recalled and not knew:
        return no, ""
    return (yes if recalled else no), ("good" if recalled == good else "bad")
