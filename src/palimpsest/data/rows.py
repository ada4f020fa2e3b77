"""Rows of a part: records under one of their phrasings, in the schema that every data set has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from palimpsest.data.faults import RowFault
from palimpsest.data.records import Record
from palimpsest.io import schemas


@dataclass(frozen=True)
class Row:
    """A row of a part: a record in one of its phrasings; fields as in `schemas.DATASET`."""

    id: str
    group: str
    prompt: str
    response: str
    source_row: int
    phrasing: str
    key: list[str]
    key_from: str
    harmful: bool | None
    choices: list[str]
    answer: int | None
    perturbed: list[str]
    paraphrased: str | None
    paraphrase_of: str | None
    question: str | None


def phrase(
    dataset: str, record: Record, phrasing: str, prefix: str = "", context_words: int = 0
) -> list[Row]:
    """A record as rows, one for each of its wordings under a phrasing.

    Args:
        dataset: key of the data set; the row's id begins with it.
        record: the record.
        phrasing: ``original``, ``taught`` or ``unseen``.
        prefix: put before the prompt.
        context_words: number of a plain text's first words that are its prompt.

    Raises:
        RowFault: a plain text cannot be divided there.
    """
    original = f"{dataset}-{record.source_row:05d}{record.suffix}"
    if phrasing == "original":
        prompts = {original: record.prompt}
    elif phrasing == "unseen":
        prompts = {f"{original}-u": record.unseen} if record.unseen is not None else {}
    else:
        # The first wording has no number, so that a set with one wording keeps its ids.
        prompts = {f"{original}-t{n or ''}": text for n, text in enumerate(record.taught)}
    return [
        _row(record, phrasing, original, row_id, prompt, prefix, context_words)
        for row_id, prompt in prompts.items()
    ]


def _row(
    record: Record,
    phrasing: str,
    original: str,
    row_id: str,
    prompt: str,
    prefix: str,
    context_words: int,
) -> Row:
    paraphrase = phrasing != "original"
    response, perturbed = record.response, record.perturbed
    if response is None:
        prompt, response = _divided(prompt, context_words, record.key)
        # Wrong texts have the words of the original, so they fit its context alone.
        perturbed = [] if paraphrase else _after(prompt, perturbed)
    return Row(
        id=row_id,
        group=record.group,
        prompt=prefix + prompt,
        response=response,
        source_row=record.source_row,
        phrasing=phrasing,
        key=record.key,
        key_from=record.key_from,
        harmful=record.harmful,
        choices=record.choices,
        answer=record.answer,
        perturbed=perturbed,
        paraphrased=record.paraphrased,
        paraphrase_of=original if paraphrase else None,
        question=record.question,
    )


def _divided(text: str, words: int, key: Iterable[str]) -> tuple[str, str]:
    """The first `words` words of a text and the rest; the two joined are the text."""
    ends = [0, *(match.end() for match in re.finditer(r"\S+", text))]
    if words >= len(ends) - 1:
        raise RowFault(
            f"context_words is {words}, the text has {len(ends) - 1} words: nothing is left to "
            "continue it with"
        )
    context, rest = text[: ends[words]], text[ends[words] :]
    for string in key:
        if string in context or string not in rest:
            raise RowFault(f"key '{string}' stands within the first {words} words, the context")
    return context, rest


def _after(context: str, texts: Iterable[str]) -> list[str]:
    return [text.removeprefix(context) for text in texts if text.startswith(context)]


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table with `palimpsest.io.schemas.DATASET`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schemas.DATASET)
