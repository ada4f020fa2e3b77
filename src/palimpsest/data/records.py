"""The schema that every data set is brought to, questions and answers as well as plain texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from palimpsest.data.faults import RowFault
from palimpsest.io import schemas


@dataclass
class Record:
    """A question and its answer or a plain text, as given, with what is known about it."""

    prompt: str
    """The question, or the whole of a plain text."""
    response: str | None
    """The answer; None in a plain text, which the parts divide into context and rest."""
    group: str
    """What splits are made by: rows with the same group stay together."""
    source_row: int
    """0-based row in the source file."""
    suffix: str = ""
    """Tells apart the rows that one source row gives: ``-0``, ``-1``."""
    where: str = ""
    """The place in the file as a person would count, ``line 3``."""
    subset: str | None = None
    """List of a nested file that it stands in."""
    mended: tuple[str, str] | None = None
    """A misprint of the published file, and what now stands there."""
    key: list[str] = field(default_factory=list)
    """Strings that carry the fact; all occur in the response (or in each wording of a text)."""
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
    question: str | None = None
    """The question that the choices answer, where the prompt does not ask it."""

    @property
    def answers(self) -> str:
        """The text in which the key strings stand."""
        return self.prompt if self.response is None else self.response


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
    choices: list[str]
    answer: int | None
    perturbed: list[str]
    paraphrase_of: str | None
    question: str | None


def phrase(
    dataset: str, record: Record, phrasing: str, prefix: str = "", context_words: int = 0
) -> Row | None:
    """A record as a row under a phrasing; None if it has no such wording.

    Args:
        dataset: key of the data set; the row's id begins with it.
        record: the record.
        phrasing: ``original``, ``taught`` or ``unseen``.
        prefix: put before the prompt.
        context_words: so many words of a plain text are its prompt.

    Raises:
        RowFault: a plain text cannot be divided so.
    """
    original = f"{dataset}-{record.source_row:05d}{record.suffix}"
    prompts = {"original": record.prompt, "taught": record.taught, "unseen": record.unseen}
    prompt = prompts[phrasing]
    if prompt is None:
        return None
    paraphrase = phrasing != "original"
    response, perturbed = record.response, record.perturbed
    if response is None:
        prompt, response = _divided(prompt, context_words, record.key)
        # Whole wrong texts, in the words of the original: they go on after no other context.
        perturbed = [] if paraphrase else _after(prompt, perturbed)
    return Row(
        id=f"{original}-{phrasing[0]}" if paraphrase else original,
        group=record.group,
        prompt=prefix + prompt,
        response=response,
        source_row=record.source_row,
        phrasing=phrasing,
        key=record.key,
        choices=record.choices,
        answer=record.answer,
        perturbed=perturbed,
        paraphrase_of=original if paraphrase else None,
        question=record.question,
    )


def _divided(text: str, words: int, key: Iterable[str]) -> tuple[str, str]:
    """A text's first so many words and the rest; the two joined are the text."""
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
    """Rows as an Arrow table with the columns `schemas.DATASET`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schemas.DATASET)
