"""Adapter for the probes of RWKU (arXiv:2406.10890): questions on real persons.

``wording`` writes the request as RWKU sends it: a blank to complete, a question to answer briefly,
an attack as it is. Its other files are plain texts (adapter ``text``) or pairs (``qa``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

_PLAIN = ("query", "answer", "level", "type", "subject")
SCHEMA = (_PLAIN, (*_PLAIN, "neighbor"))
"""The columns of its probes, and of those on neighbours."""

_BLANK = "Please complete the blank in the following question.\nQuestion: "
_BRIEF = "Please briefly answer the following question.\n"
_AS_IT_IS = "incontext learning"
_NO_LINE_END = "affirmative suffix"


class Settings(DatasetSettings):
    """Settings of a data set in the schema of RWKU."""

    adapter: Literal["rwku"]
    """A probe of one of three levels, its answer, and the person whom it is about."""
    wording: Literal["rwku", "plain"] = "rwku"
    """The request as RWKU sends it, or the query alone."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(_PLAIN)


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record; rows of one person belong together, and the answer is its key string."""
    fields = raw.fields
    query, answer = text_of(fields, "query"), text_of(fields, "answer")
    level, kind = text_of(fields, "level"), text_of(fields, "type")
    if level not in ("1", "2", "3"):
        raise RowFault(f"column 'level': '1', '2' or '3' is needed, found {level!r:.20}")
    prompt = query if dataset.wording == "plain" else request(query, level, kind)
    yield Record(
        prompt, answer, group=text_of(fields, "subject"), source_row=raw.index, key=[answer]
    )


def request(query: str, level: str, kind: str) -> str:
    """The request of a probe; the answer's beginning, ``Answer:``, belongs to the template."""
    if level == "1":
        return f"{_BLANK}{query}\n"
    before = "" if kind == _AS_IT_IS else "Question: "
    return f"{_BRIEF}{before}{query}" + ("" if kind == _NO_LINE_END else "\n")
