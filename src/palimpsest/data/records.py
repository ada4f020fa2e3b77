"""The schema that every question-answer data set is brought to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("source_row", pa.int64()),
        ("phrasing", pa.string()),
        ("key", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int64()),
        ("perturbed", pa.list_(pa.string())),
        ("paraphrase_of", pa.string()),
    ]
)
"""Columns of ``resources/datasets/{dataset}/{part}.parquet``."""


@dataclass
class Record:
    """One question and its answer, as given in the source, with what is known about it."""

    prompt: str
    response: str
    group: str
    """The text that splits are made by: rows with the same group stay together."""
    source_row: int
    """0-based row in the source file."""
    suffix: str = ""
    """Tells apart the rows that one source row gives: ``-0``, ``-1``."""
    key: list[str] = field(default_factory=list)
    """Strings that carry the fact; all occur in the response."""
    choices: list[str] = field(default_factory=list)
    """Options of a multiple-choice question."""
    answer: int | None = None
    """Index of the right choice."""
    perturbed: list[str] = field(default_factory=list)
    """Wrong answers in the words of the right one."""
    taught: str | None = None
    """A paraphrase of the prompt that pretraining may teach."""
    unseen: str | None = None
    """A paraphrase of the prompt that nobody is shown before the measurement."""


@dataclass(frozen=True)
class Row:
    """A row of a part: a record under one of its phrasings. Fields are those of `SCHEMA`."""

    id: str
    group: str
    prompt: str
    response: str
    source_row: int
    phrasing: str
    key: list[str]
    choices: list[str]
    answer: int | None
    perturbed: list[str]
    paraphrase_of: str | None


def phrase(dataset: str, record: Record, phrasing: str) -> Row | None:
    """A record as a row under a phrasing; None if it has no such prompt."""
    original = f"{dataset}-{record.source_row:05d}{record.suffix}"
    prompts = {"original": record.prompt, "taught": record.taught, "unseen": record.unseen}
    prompt = prompts[phrasing]
    if prompt is None:
        return None
    paraphrase = phrasing != "original"
    return Row(
        id=f"{original}-{phrasing[0]}" if paraphrase else original,
        group=record.group,
        prompt=prompt,
        response=record.response,
        source_row=record.source_row,
        phrasing=phrasing,
        key=record.key,
        choices=record.choices,
        answer=record.answer,
        perturbed=record.perturbed,
        paraphrase_of=original if paraphrase else None,
    )


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table with `SCHEMA`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
