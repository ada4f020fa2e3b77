"""Adapter for plain texts: one document a row (or a paragraph of a ``.txt`` file)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.data.faults import LeftOut, RowFault
from palimpsest.data.fields import checked_text
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.data.split import normalised
from palimpsest.settings.dataset import DatasetSettings, Part
from palimpsest.settings.types import Count, Index, Name

SHORTEST_TAIL = 8
"""Words of the shortest window: fewer at a document's end join the window before."""

_WORD = re.compile(r"\S+")


class TextPart(Part):
    """A named selection of a data set's texts."""

    context_words: Index = 0
    """Number of words of each text that are its prompt; the rest is the response."""


class TextSettings(DatasetSettings):
    """Common keys of data sets of plain texts."""

    columns: dict[Literal["text"], str] = {}
    """Name of the column with the text, where it differs from ``text``."""
    min_characters: Index = 0
    """Shorter texts are left out and counted."""
    window_words: Count | None = None
    """Cut texts into rows of this number of words; a tail below 8 joins the row before."""
    window_tokens: Annotated[Count, Field(ge=16)] | None = None
    """Cut the tokens of each text into rows of this number, BOS before each: texts to train on."""
    parts: Annotated[dict[Name, TextPart], Field(min_length=1)]  # type: ignore[assignment]
    """The parts that scenarios refer to as dataset/part."""

    format = "text"

    @model_validator(mode="after")
    def _windows(self) -> Self:
        if self.window_tokens is not None and self.window_words is not None:
            raise ValueError("window_tokens and window_words exclude each other")
        if self.window_tokens is not None and any(p.context_words for p in self.parts.values()):
            raise ValueError("pieces of window_tokens have no context: leave context_words out")
        if self.window_words is not None and self.facts is not None:
            raise ValueError(
                "window_words and facts exclude each other: facts are about whole texts, and "
                "windows are pieces of them; leave one of the two out"
            )
        return self


class Settings(TextSettings):
    """Settings of a data set of plain texts."""

    adapter: Literal["text"]
    """One document a row, or a paragraph of a ``.txt`` file."""


def columns(dataset: TextSettings) -> list[str]:
    """Columns that the file must have."""
    return [dataset.columns.get("text", "text")]


def records(raw: RawRow, dataset: TextSettings) -> Iterator[Record]:
    """One record a document, or one for each of its windows."""
    return documents(raw_text(raw, dataset), raw, dataset)


def raw_text(raw: RawRow, dataset: TextSettings) -> str:
    """The text of a row, unchanged and possibly empty (else `RowFault`)."""
    (column,) = columns(dataset)
    if column not in raw.fields:
        raise RowFault(f"column '{column}' is missing")
    if not isinstance(text := raw.fields[column], str):
        raise RowFault(f"column '{column}': a text is needed, found {text!r:.60}")
    return text


def documents(text: str, raw: RawRow, dataset: TextSettings) -> Iterator[Record]:
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
    """Cut a text into pieces of `words` words each; every word is in exactly one piece."""
    spans = [match.span() for match in _WORD.finditer(text)]
    starts = list(range(0, len(spans), words))
    if len(starts) > 1 and len(spans) - starts[-1] < SHORTEST_TAIL:
        starts.pop()
    ends = [*starts[1:], len(spans)]
    return [text[spans[a][0] : spans[b - 1][1]] for a, b in zip(starts, ends, strict=True)]
