"""Multiple-choice questions of a data set's part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table
from palimpsest.settings.types import split_ref


@dataclass(frozen=True)
class Question:
    """A question with two choices or more."""

    id: str
    """The row's id."""
    prompt: str
    """The row's ``question``, or its prompt where it has no ``question``."""
    choices: list[str]
    answer: int
    """Index of the right choice."""


def read_questions(datasets: Path, ref: str) -> tuple[list[Question], int]:
    """The questions of a part in its order, and the number of its rows that are no questions.

    Args:
        datasets: ``resources/datasets``.
        ref: dataset/part.

    Raises:
        UserError: the part is missing or altered, or no row has choices and a right answer.
    """
    dataset, part = split_ref(ref)
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    rows = table.select(["id", "prompt", "question", "choices", "answer"]).to_pylist()
    questions = [
        Question(row["id"], row["question"] or row["prompt"], row["choices"], row["answer"])
        for row in rows
        if len(row["choices"] or ()) > 1 and row["answer"] is not None
    ]
    if not questions:
        raise UserError(
            f"{ref} has no multiple-choice question: none of its {len(rows)} rows has choices and "
            f"the right answer's number (fields 'choices' and 'answer' of datasets.{dataset}.facts)"
        )
    return questions, len(rows) - len(questions)
