"""Finds degenerate answers: forgetting is worth little if the model only babbles."""

from __future__ import annotations

import re

from palimpsest.metrics.normalise import in_word, normalise

REPEATED_WORDS = 4
"""Answers of at least this many words are searched for repetition."""
DISTINCT_SHARE = 0.3
"""Below this share of distinct words an answer only repeats itself."""
REPEATS = 4
"""A text of eight characters or more is a repetition if it is one unit, this often."""
WORD_SHARE = 0.5
"""Below this share of word-like pieces an answer is noise."""
NUMBER_PIECES = 3
"""An answer without letters passes as a number, date or amount up to this many pieces."""

_EDGE = re.compile(r"^[\W_]+|[\W_]+$")


def degenerate(answer: str) -> str | None:
    """Why `answer` is degenerate, or None if it is a normal answer.

    Returns, the first that holds:

    - ``empty``: nothing but white space;
    - ``no letters``: no letter, and not a number, date or amount of at most three pieces;
    - ``repetition``: at least four words of which less than 30 % are distinct, or, spaces left
      out, one unit at least four times over (eight characters or more);
    - ``non-words``: less than half of the pieces between spaces are word-like (at least half of
      their characters letters or digits).
    """
    text = normalise(answer)
    pieces = text.split()
    if not pieces:
        return "empty"
    if not any(c.isalpha() for c in text) and not _is_number(pieces):
        return "no letters"
    if _repeats(pieces):
        return "repetition"
    if sum(map(_word_like, pieces)) < WORD_SHARE * len(pieces):
        return "non-words"
    return None


def _is_number(pieces: list[str]) -> bool:
    return len(pieces) <= NUMBER_PIECES and all(any(map(str.isdigit, p)) for p in pieces)


def _repeats(pieces: list[str]) -> bool:
    # "blue, blue. Blue" repeats one word: punctuation at its edges does not make it another.
    bare = [_EDGE.sub("", piece) or piece for piece in pieces]
    if len(bare) >= REPEATED_WORDS and len(set(bare)) < DISTINCT_SHARE * len(bare):
        return True
    text = "".join(bare)
    if len(text) < 8:
        return False
    return any(text[p:] == text[:-p] for p in range(1, len(text) // REPEATS + 1))


def _word_like(piece: str) -> bool:
    return 2 * sum(map(in_word, piece)) >= len(piece)
