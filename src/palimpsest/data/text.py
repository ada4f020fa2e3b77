"""Adapter for plain texts: one document a row (or a paragraph of a ``.txt`` file)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from palimpsest.config.schema import Dataset
from palimpsest.data.faults import LeftOut, RowFault
from palimpsest.data.fields import checked_text
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.data.split import normalised

SHORTEST_TAIL = 8
"""Words of the shortest window: fewer than so many at a document's end join the one before."""

_WORD = re.compile(r"\S+")


def columns(dataset: Dataset) -> list[str]:
    """Columns that the file must have."""
    return [dataset.columns.get("text", "text")]


def records(raw: RawRow, dataset: Dataset) -> Iterator[Record]:
    """One record a document, or one for each of its windows."""
    return documents(raw_text(raw, dataset), raw, dataset)


def raw_text(raw: RawRow, dataset: Dataset) -> str:
    """The text of a row as the file has it, possibly empty (else `RowFault`)."""
    (column,) = columns(dataset)
    if column not in raw.fields:
        raise RowFault(f"column '{column}' is missing")
    if not isinstance(text := raw.fields[column], str):
        raise RowFault(f"column '{column}': a text is needed, found {text!r:.60}")
    return text


def documents(text: str, raw: RawRow, dataset: Dataset) -> Iterator[Record]:
    """Records of one document: itself, or its windows.

    Raises:
        LeftOut: it is shorter than ``min_characters``.
        RowFault: it is empty.
    """
    if len(text.strip()) < dataset.min_characters:
        raise LeftOut("shorter than min_characters")
    text = checked_text(text, columns(dataset)[0])
    # The hash stands for the document: each window would carry all of its text otherwise.
    group = "text-" + hashlib.sha256(normalised(text).encode()).hexdigest()[:24]
    if dataset.window_words is None:
        yield Record(text, None, group=group, source_row=raw.index)
        return
    for k, window in enumerate(windows(text, dataset.window_words)):
        yield Record(window, None, group=group, source_row=raw.index, suffix=f"-w{k}")


def windows(text: str, words: int) -> list[str]:
    """Cut a text into pieces of so many words each; every word is in exactly one piece."""
    spans = [match.span() for match in _WORD.finditer(text)]
    starts = list(range(0, len(spans), words))
    if len(starts) > 1 and len(spans) - starts[-1] < SHORTEST_TAIL:
        starts.pop()
    ends = [*starts[1:], len(spans)]
    return [text[spans[a][0] : spans[b - 1][1]] for a, b in zip(starts, ends, strict=True)]
