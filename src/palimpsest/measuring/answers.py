"""Free answers: the questions, their answers, and the tables of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from palimpsest.engine.generate import Answer, Answerer, Sampled
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.io import schemas


@dataclass(frozen=True)
class Questions:
    """Rows that are answered in one way."""

    rows: Mapping[str, Sequence[Row]]
    """Block -> rows."""
    label: str
    """Name in progress lines."""
    sampled: Sampled | None = None
    """How to draw the answers; None: greedy."""
    limit: int | None = None
    """Tokens of their longest answer; None: as all others have it."""
    stop: Sequence[str] = ()
    """An answer ends before the first of these texts."""


@dataclass(frozen=True)
class Answered:
    """A row with the answer to its prompt."""

    block: str
    row: Row
    answer: Answer


def answer_questions(answerer: Answerer, questions: Questions) -> list[Answered]:
    """The answer to every row, in their order."""
    rows = [(block, row) for block, part in questions.rows.items() for row in part]
    progress = Progress(questions.label, len(rows))
    answers = answerer([row for _, row in rows], done=progress.update, sampled=questions.sampled)
    return [Answered(*pair, answer) for pair, answer in zip(rows, answers, strict=True)]


def answers_table(answered: Sequence[Answered]) -> pa.Table:
    """One line per answer, columns `palimpsest.io.schemas.ANSWERS`."""
    lines = [
        {
            "part": one.block,
            "id": one.row.id,
            "answer": one.answer.text,
            "tokens": one.answer.tokens,
            "stopped": one.answer.stopped,
        }
        for one in answered
    ]
    return pa.Table.from_pylist(lines, schema=schemas.ANSWERS)


def generations_table(answered: Sequence[Answered], logprobs: Sequence[float]) -> pa.Table:
    """One line per answer, columns `palimpsest.io.schemas.GENERATIONS`.

    Args:
        answered: the answers.
        logprobs: log-probability of each answer under `original` (nats).
    """
    tokens = [len(one.answer.ids) for one in answered]
    columns = [*answers_table(answered).columns, pa.array(tokens), pa.array(logprobs)]
    return pa.table(columns, names=schemas.GENERATIONS.names).cast(schemas.GENERATIONS)
