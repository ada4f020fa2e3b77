"""Adapter for LUME, task 4 of SemEval-2025 (arXiv:2502.15097).

A row's id is that of its document and, at its end, ``scN`` (a text to continue) or ``qaN`` (a
question on it). Ids of Task1 hold quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

SCHEMA = (("id", "input", "output", "task"),)
"""The columns of its files."""

_ID = re.compile(r"(?P<document>.+?)(?P<kind>sc|qa)\d+")
KINDS = {"sc": "completion", "qa": "question"}


class Settings(DatasetSettings):
    """Settings of a data set in the schema of LUME."""

    adapter: Literal["lume"]
    """Texts to continue and questions on them; `where` knows ``kind``, completion or question."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(SCHEMA[0])


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record; all rows of a document are one group."""
    name = text_of(raw.fields, "id")
    found = _ID.fullmatch(name.replace('"', ""))
    if found is None:
        raise RowFault(f"column 'id': a document with scN or qaN is needed, found {name!r:.60}")
    yield Record(
        text_of(raw.fields, "input"),
        text_of(raw.fields, "output"),
        group=f"{text_of(raw.fields, 'task')} {found['document']}",
        source_row=raw.index,
        fields={"kind": KINDS[found["kind"]]},
    )
