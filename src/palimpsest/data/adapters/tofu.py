"""Adapter for TOFU (arXiv:2401.06121), in each of the forms that its files have.

A file without wrong answers has questions and answers alone. ``*_perturbed`` has wrong answers and,
of the invented authors, the right answer and the question in other words. ``real_authors`` and
``world_facts`` have four options, of which the answer is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of, texts_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

_OPTIONS = ("option1", "option2", "option3", "option4")
_PLAIN = ("question", "answer")
SCHEMA = (
    _PLAIN,
    (*_PLAIN, "perturbed_answer"),
    (*_PLAIN, *_OPTIONS),
    (*_PLAIN, "paraphrased_answer", "perturbed_answer", "paraphrased_question"),
)
"""The columns of each form."""
ROWS_OF_AN_AUTHOR = 20
"""They stand one after the other, and every file begins with an author's first."""


class Settings(DatasetSettings):
    """Settings of a data set in the schema of TOFU."""

    adapter: Literal["tofu"]
    """Questions on invented or real authors, with wrong answers and paraphrases where they are."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(_PLAIN)


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record; the question in other words is its unseen wording."""
    fields = raw.fields
    prompt, response = text_of(fields, "question"), text_of(fields, "answer")
    # Questions on the world have wrong answers or options alone; all others are on an author.
    world = "paraphrased_answer" not in fields and {"perturbed_answer", _OPTIONS[0]} & set(fields)
    group = prompt if world else f"author {raw.index // ROWS_OF_AN_AUTHOR}"
    record = Record(prompt, response, group=group, source_row=raw.index)
    if "perturbed_answer" in fields:
        record.perturbed = texts_of(fields, "perturbed_answer")
    if "paraphrased_answer" in fields:
        record.paraphrased = text_of(fields, "paraphrased_answer")
        record.unseen = text_of(fields, "paraphrased_question")
    if _OPTIONS[0] in fields:
        record.choices = [text_of(fields, name) for name in _OPTIONS]
        if response not in record.choices:
            raise RowFault(f"the answer '{response:.60}' is none of the four options")
        record.answer = record.choices.index(response)
        record.perturbed = [choice for choice in record.choices if choice != response]
    yield record
