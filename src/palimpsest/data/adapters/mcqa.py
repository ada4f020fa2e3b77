"""Adapter for multiple-choice questions as WMDP and MMLU are published.

``choices`` is a list, ``answer`` the number of the right one from 0 on, or its letter.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any, Literal

from palimpsest.data.facts import answer_of
from palimpsest.data.fields import text_of, texts_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

_PLAIN = ("question", "choices", "answer")
SCHEMA = (_PLAIN, (*_PLAIN, "subject"))
"""The columns of each form: WMDP's, and MMLU's."""


class Settings(DatasetSettings):
    """Settings of a data set of multiple-choice questions."""

    adapter: Literal["mcqa"]
    """A question, its choices and the number of the right one (WMDP, MMLU)."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(_PLAIN)


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record: the right choice is the answer, the others are wrong."""
    prompt, choices = text_of(raw.fields, "question"), texts_of(raw.fields, "choices")
    right = answer_of(_number(raw.fields["answer"]), choices)
    wrong = choices[:right] + choices[right + 1 :]
    yield Record(
        prompt,
        choices[right],
        group=prompt,
        source_row=raw.index,
        choices=choices,
        answer=right,
        perturbed=[choice for choice in wrong if choice != choices[right]],
    )


def _number(value: Any) -> Any:
    letters = string.ascii_uppercase
    is_letter = isinstance(value, str) and len(value) == 1 and value in letters
    return letters.index(value) if is_letter else value
