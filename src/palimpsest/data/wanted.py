"""Texts that are wanted in place of a row's own answer: which will do, and lists in files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from palimpsest.data.faults import Faults, RowFault
from palimpsest.data.fields import text_of, texts_of
from palimpsest.data.read import read_rows
from palimpsest.errors import UserError, did_you_mean
from palimpsest.metrics.matching import contains
from palimpsest.metrics.normalise import words

ALIKE = 0.9
"""From this ROUGE-L on, a text says the same as the answer."""


def fault_of(text: str, response: str, key: Sequence[str], wrong: Sequence[str]) -> str | None:
    """Why a text is no alternate to a row's answer; None: it is one.

    Args:
        text: what may be an alternate.
        response: the row's answer.
        key: the row's key strings.
        wrong: the row's wrong answers, on which the evaluation relies.
    """
    if not words(text):
        return "it has no words"
    if words(text) == words(response):
        return "it is the row's own answer"
    if any(contains(text, string) for string in key):
        return "it contains a key string of the row"
    if words(text) in map(words, wrong):
        return "it is a wrong answer of the row, which the evaluation compares with"
    return None


def says_the_same(text: str, response: str) -> bool:
    """Whether the ROUGE-L of a text to the answer is `ALIKE` or more."""
    from palimpsest.metrics.rouge import Rouge  # imports nltk, which is slow

    score = Rouge(["rougeL"], stemmer=True).score(response, text)
    return score is not None and score["rougeL"] >= ALIKE


def read_refusals(path: Path) -> list[str]:
    """The phrases of a file, one a line.

    Raises:
        UserError: it has no line, an empty one, or a phrase twice; or it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not lines:
        raise UserError(f"{path}: the file is empty; write one refusal a line")
    known: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not words(line):
            raise UserError(f"{path}, line {number}: it is empty; write one refusal a line")
        if (first := known.setdefault(" ".join(words(line)), number)) != number:
            raise UserError(
                f"{path}, line {number}: line {first} has the same words ({line.strip()!r:.60}); "
                "leave one of them out"
            )
    return [line.strip() for line in lines]


def read_alternates(path: Path, ids: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """Row id -> (place in the file, text) of each alternate.

    Args:
        path: a file of rows with the columns ``id`` and ``alternates``, a text or a list.
        ids: those of the part's rows.

    Raises:
        UserError: a row is faulty, is about no row of the part, or has an alternate twice.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for raw in read_rows(path, Faults("refuse")):
        where = f"{path.name}, {raw.where}"
        try:
            row, texts = text_of(raw.fields, "id"), texts_of(raw.fields, "alternates")
        except RowFault as fault:
            raise UserError(f"{where}: {fault}") from None
        if row not in ids:
            raise UserError(f"{where}: no row '{row}' in the part{did_you_mean(row, ids)}")
        known = found.setdefault(row, [])
        for text in texts:
            if words(text) in (words(other) for _, other in known):
                raise UserError(f"{where}: row '{row}' has the alternate {text!r:.60} twice")
            known.append((where, text))
    return found
