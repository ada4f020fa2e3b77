"""Settings that every data set has; those of one adapter stand in the file of the adapter."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from palimpsest.settings.types import (
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
        if self.facts is not None and self.facts.split(":")[0] not in ("path", "resource"):
            raise ValueError("facts comes from path:file or resource:file")
        return self
