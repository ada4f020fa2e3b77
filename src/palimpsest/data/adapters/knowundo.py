"""Adapter for KnowUnDo: rows ``{"text": question, "labels": answer}``, nested or flat.

The nested form of the Hugging Face data set (one row that holds the lists ``train`` and ``val``) is
divided by `palimpsest.data.read`; a part's ``subset`` picks a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

_CORRUPTED = "How have Isabella Marquez's parents influenced her career?"
_WAS, _IS = "father andfthe artistic", "father and the artistic"


class Settings(DatasetSettings):
    """Settings of a data set in the schema of KnowUnDo."""

    adapter: Literal["knowundo"]
    """A question and its answer, flat or in named lists."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return ["text", "labels"]


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record; the corrupted row of the published privacy/unlearn_train.json is mended."""
    prompt, response = text_of(raw.fields, "text"), text_of(raw.fields, "labels")
    mended = None
    # Only this row of the published file is mended; other files stay as they are.
    if prompt == _CORRUPTED and _WAS in response:
        response, mended = response.replace(_WAS, _IS), (_WAS, _IS)
    yield Record(prompt, response, group=prompt, source_row=raw.index, mended=mended)
