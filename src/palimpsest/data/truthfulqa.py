"""Adapter for TruthfulQA: the best answer is the response, the incorrect ones are perturbed.

Reads version 0 (seven columns) and the later one with ``Best Incorrect Answer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from palimpsest.config.schema import Dataset
from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record


def columns(dataset: Dataset) -> list[str]:
    """Columns that the file must have."""
    return ["Question", "Best Answer", "Incorrect Answers"]


def records(raw: RawRow, dataset: Dataset) -> Iterator[Record]:
    """One record: Question, Best Answer, and the incorrect answers without empty ones."""
    prompt = text_of(raw.fields, "Question")
    yield Record(
        prompt,
        text_of(raw.fields, "Best Answer"),
        group=prompt,
        source_row=raw.index,
        perturbed=_several(raw.fields.get("Incorrect Answers")),
    )


def _several(cell: Any) -> list[str]:
    if not isinstance(cell, str | None):
        raise RowFault(f"column 'Incorrect Answers': a text is needed, found {cell!r:.60}")
    return [answer.strip() for answer in (cell or "").split(";") if answer.strip()]
