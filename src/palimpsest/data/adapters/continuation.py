"""Adapter for texts that are divided already: a beginning, and how it goes on.

Both are kept as they are, white space included: MUSE's continuations begin with a space, or in the
middle of a word. They are read without a template, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings


class Settings(DatasetSettings):
    """Settings of a data set of texts and their continuations."""

    adapter: Literal["continuation"]
    """The beginning of a text and how it goes on, without anything between."""
    columns: dict[Literal["prompt", "response"], str] = {}
    """Names of the two columns, where they differ from ``prompt`` and ``response``."""

    format = "text"


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    names = {str(field): column for field, column in dataset.columns.items()}
    return [names.get(field, field) for field in ("prompt", "response")]


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record."""
    prompt, response = (_as_it_is(raw.fields, column) for column in columns(dataset))
    yield Record(prompt, response, group=prompt, source_row=raw.index)


def _as_it_is(fields: dict[str, Any], column: str) -> str:
    text_of(fields, column)
    return str(fields[column])
