"""Facts of rows to forget: in every wording, with every text that gives one away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from palimpsest.data.attack_split import Fact
from palimpsest.measuring.alternatives import DataRow


def facts_of(rows: Sequence[DataRow], in_other_words: Iterable[DataRow]) -> list[Fact]:
    """The facts of some rows.

    Args:
        rows: the rows to forget.
        in_other_words: rows with other wordings; those of other facts are not used.
    """
    wordings: dict[str, list[DataRow]] = {row.fact: [] for row in rows}
    for row in (*rows, *in_other_words):
        if row.fact in wordings:
            wordings[row.fact].append(row)
    return [_fact(name, found) for name, found in wordings.items()]


def texts_of(row: DataRow) -> list[str]:
    """What a row says, without wrong answers."""
    return [text for text in (row.prompt, row.response, row.paraphrased) if text]


def _fact(name: str, wordings: Sequence[DataRow]) -> Fact:
    """A fact in all its wordings, a row to forget first."""
    texts = dict.fromkeys(text for row in wordings for text in texts_of(row))
    keys = dict.fromkeys(key for row in wordings for key in row.key)
    return Fact(name, wordings[0].group, list(keys), list(texts))
