"""Adapter for WikiText: plain texts without headings, blank lines and its tokenizer's marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from palimpsest.data.adapters.text import TextSettings, documents, raw_text
from palimpsest.data.adapters.text import columns as columns
from palimpsest.data.faults import LeftOut
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record

_HEADING = re.compile(r"\s*=(?: =)* \S.* (?:= )*=\s*")
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),
        (r" +([,.;:!?%)\]}]|\.\.\.)(?=[\s\"'.,;:!?)\]}]|$)", r"\1"),
        (r"([(\[{]) +", r"\1"),
        (r"([$£€]) +(?=\d)", r"\1"),
        (r'(?<![^\s(\[])" ([^"]*?) "(?![^\s.,;:!?)\]])', r'"\1"'),
        (r"(?<=\w) '(s|t|d|m|re|ve|ll)\b", r"'\1"),
        (r"(?<=\w)s ' (?!s\b)(?=\w)", "s' "),
        (r" (n't)\b", r"\1"),
        (r" {2,}", " "),
    )
]
"""Marks of WikiText's tokenizer -> the original text, in the order in which they are replaced."""


class Settings(TextSettings):
    """Settings of a data set in the form of WikiText."""

    adapter: Literal["wikitext"]
    """Plain texts; headings, blank lines and the marks of its tokenizer are taken out."""


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record a paragraph (or one for each of its windows).

    Raises:
        LeftOut: it is a heading or blank.
    """
    lines = [line for line in raw_text(raw, dataset).split("\n") if line.strip()]
    text = "\n".join(untokenized(line) for line in lines if not _HEADING.fullmatch(line))
    if not text:
        raise LeftOut("heading or blank")
    return documents(text, raw, dataset)


def untokenized(line: str) -> str:
    """A line without the tokenizer's marks: ``3 @.@ 5 km , to sea`` becomes ``3.5 km, to sea``."""
    line = line.strip()
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line
