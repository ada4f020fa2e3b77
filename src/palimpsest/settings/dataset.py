"""Settings that every data set has; those of one adapter stand in the file of the adapter."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from palimpsest.settings.types import (
    EACH_ONCE,
    Count,
    FileName,
    Fraction,
    Index,
    Name,
    Section,
    Sha256,
    Source,
)


def _shares(split: dict[str, float]) -> dict[str, float]:
    if sum(split.values()) > 1 + 1e-9:
        raise ValueError(f"the shares add up to {sum(split.values()):g}, more than 1")
    return split


Wanted = bool | int | float | str
"""A value of a column; ``1`` is that of a column of texts, too."""


def wanted_values(value: Any) -> list[str]:
    """The values that ``where`` names for a column, as texts."""
    return [as_text(one) for one in (value if isinstance(value, list) else [value])]


def as_text(value: Any) -> str:
    """A value as ``where`` compares it: 1, true and "1", "true" are the same."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


class Part(Section):
    """A named selection of a dataset's rows."""

    split: str | None = None
    """Name of a share in the dataset's ``split``; null takes all of it."""
    phrasing: Literal["original", "taught", "unseen"] = "original"
    """The file's prompt, the paraphrases that pretraining teaches, or the one that nobody sees."""
    subset: str | None = None
    """Name of a list in a nested file (KnowUnDo: train, val); null takes all of them."""
    prefix: str = ""
    """Text before every prompt, with the white space that shall follow it ("direct prompt")."""
    where: dict[str, Wanted | Annotated[list[Wanted], Field(min_length=1)]] = {}
    """Column of the file -> the value (or values) of the rows that the part takes; null: all."""
    rows: Annotated[list[Index], Field(min_length=2, max_length=2)] | None = None
    """First row of the file and the one after the last, counted from 0; null: all."""

    @model_validator(mode="after")
    def _some_rows(self) -> Self:
        if self.rows is not None and self.rows[0] >= self.rows[1]:
            raise ValueError(f"rows: from {self.rows[0]} to before {self.rows[1]} there is no row")
        return self

    def apart(self, other: Part) -> bool:
        """Whether two parts of a data set share no row, by `subset`, `rows` or `where`."""
        if None not in (self.subset, other.subset) and self.subset != other.subset:
            return True
        if self.rows and other.rows:
            (start, end), (first, last) = self.rows, other.rows
            if end <= first or last <= start:
                return True
        return any(
            not set(wanted_values(self.where[column])) & set(wanted_values(other.where[column]))
            for column in self.where.keys() & other.where.keys()
        )


class DatasetSettings(Section):
    """Common keys of a data set."""

    source: Source
    """hub:org/name, path:file, url:address (with sha256) or resource:file shipped in resources/."""
    sha256: Sha256 | None = None
    """Hash of the file; refused if it differs."""
    revision: str = "main"
    """Branch, tag or commit of a hub dataset."""
    files: list[FileName] = []
    """hub: files to read, * allowed (empty: the only one, or else those with train in the name)."""
    adapter: str
    """Which schema the file has: the name of its adapter."""
    facts: Source | None = None
    """Sidecar jsonl (joined by prompt, for texts the whole text): key strings, paraphrases, ..."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """A row with a missing, empty or mistyped field: stop and name it, or drop and count it."""
    max_rows: Count | None = None
    """Use at most this number of rows, drawn by the split's seed; null uses all."""
    split: Annotated[dict[Name, Fraction], AfterValidator(_shares)] = {}
    """Shares of the prompts (never of the rows); they add up to at most 1."""
    split_seed: Index = 0
    """Seed of the split."""
    group_rows: Count | None = None
    """Number of successive rows that belong together (TOFU: the 20 of an author)."""
    group_pattern: str | None = None
    """Regular expression; its first bracket, or all it finds in a row's group, is the group."""
    expected_rows: Count | None = None
    """Rows that the file must have; another number, as of another release, is refused."""
    other_columns: Annotated[list[str], EACH_ONCE] = []
    """Further columns of the file that nothing reads, for adapters that refuse those."""
    parts: Annotated[dict[Name, Part], Field(min_length=1)]
    """The parts that scenarios refer to as dataset/part."""
    like: Annotated[Name | None, Field(exclude=True)] = None
    """Another data set: this one has its keys, save those that it sets itself."""

    format: ClassVar[Literal["qa", "text"]] = "qa"
    """What the rows are: questions and answers, or plain texts."""

    @model_validator(mode="after")
    def _source(self) -> Self:
        if self.source.startswith("url:") and self.sha256 is None:
            raise ValueError("sha256 is missing: what an address sends is checked against it")
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise ValueError(f"group_pattern: no regular expression ({error})") from None
        if self.facts is not None and self.facts.split(":")[0] not in ("path", "resource"):
            raise ValueError("facts comes from path:file or resource:file")
        return self


_LATER = ("group_rows", "group_pattern", "expected_rows", "other_columns", "window_tokens")
_LATER_OF_PART = ("where", "rows")


def as_it_was(dataset: DatasetSettings) -> dict[str, Any]:
    """The settings; keys that came later are left out where they say nothing.

    So what a data set without them depends on is what it always was.
    """
    keys = dataset.model_dump()
    for table, names in (
        (keys, _LATER),
        *((part, _LATER_OF_PART) for part in keys["parts"].values()),
    ):
        for name in names:
            if not table.get(name):
                table.pop(name, None)
    return keys
