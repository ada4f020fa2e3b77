"""Adapter for TruthfulQA: the best answer is the response, the incorrect ones are perturbed.

Reads version 0 (seven columns) and the later one with ``Best Incorrect Answer``. Best and incorrect
answers together are the choices of a multiple-choice question (MC1); a sidecar file brings its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings


class Settings(DatasetSettings):
    """Settings of a data set in the schema of TruthfulQA."""

    adapter: Literal["truthfulqa"]
    """A question, its best answer and incorrect ones."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return ["Question", "Best Answer", "Incorrect Answers"]


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record: Question, Best Answer, and the incorrect answers without empty ones."""
    prompt, best = text_of(raw.fields, "Question"), text_of(raw.fields, "Best Answer")
    wrong = _several(raw.fields.get("Incorrect Answers"))
    choices = _mixed(prompt, [best, *wrong]) if wrong and dataset.facts is None else []
    yield Record(
        prompt,
        best,
        group=prompt,
        source_row=raw.index,
        perturbed=wrong,
        choices=choices,
        answer=choices.index(best) if choices else None,
    )


def _mixed(prompt: str, answers: list[str]) -> list[str]:
    """Each answer once, in an order drawn by a hash: the same on every machine."""

    def place(answer: str) -> str:
        return hashlib.sha256(f"{prompt}\n{answer}".encode()).hexdigest()

    return sorted(set(answers), key=place)


def _several(cell: Any) -> list[str]:
    if not isinstance(cell, str | None):
        raise RowFault(f"column 'Incorrect Answers': a text is needed, found {cell!r:.60}")
    return [answer.strip() for answer in (cell or "").split(";") if answer.strip()]
