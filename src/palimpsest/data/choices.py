"""Multiple-choice questions of a data set's part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Choices are whole sentences where the row has them: its right answer and the wrong ones in the
    same words (``perturbed``). Bare options (``choices``) in place of the answers that a model is
    taught would ask for the form of an answer as well. Only they answer a ``question`` of its own.

    Args:
        datasets: ``resources/datasets``.
        ref: dataset/part.

    Raises:
        UserError: the part is missing or altered, or no row has choices and a right answer.
    """
    dataset, part = split_ref(ref)
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    rows = table.to_pylist()
    questions = [question for row in rows if (question := _question(row)) is not None]
    if not questions:
        raise UserError(
            f"{ref} has no multiple-choice question: none of its {len(rows)} rows has wrong "
            "answers ('perturbed'), or choices and the right one's number ('choices', 'answer'); "
            f"fields of datasets.{dataset}.facts"
        )
    return questions, len(rows) - len(questions)


def _question(row: Mapping[str, Any]) -> Question | None:
    choices, answer = row["choices"] or [], row["answer"]
    if not row["question"]:
        right = row.get("paraphrased") or row["response"]
        wrong = [text for text in dict.fromkeys(row["perturbed"] or ()) if text != right]
        if wrong and {right, *wrong} != set(choices):
            # The right sentence stands where the right option does: in no place too often.
            place = min(len(wrong), len(wrong) if answer is None else answer)
            return Question(
                row["id"], row["prompt"], [*wrong[:place], right, *wrong[place:]], place
            )
    if len(choices) < 2 or answer is None:
        return None
    return Question(row["id"], row["question"] or row["prompt"], choices, answer)
