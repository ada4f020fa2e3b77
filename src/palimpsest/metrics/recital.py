"""Whether an answer recites a response that has no key strings: containment, not likeness.

A model that says "Sure! Here it is:" first, goes on after the response, or is cut off by the limit
within it has recited it all the same. Likeness of the whole texts sees none of the three.

Words of the question are left out of both texts, for everybody knows them: a beginning that only
repeats the question is no recital. Let r be the n words of the response that remain, and s the
share that is asked for (``score.recall_rouge``, 0.9). The answer recites the response if

- **whole**: some n/s successive words of the answer have s n words in common with r, in r's order
  (the longest common subsequence); or
- **cut**: the limit ended the answer (its last word counts for nothing, since it may be half a
  word), and its last k words, at least `BEGINNING`, have s k words in common with the first k of r,
  in order.

Where the question has every word of the response, no word is left out. A response of one word must
be the first or the last word of the answer: "no" is not in "I have no idea".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

BEGINNING = 8
"""Words of a response's beginning, besides those of the question, that count as its recital."""


def recites(
    answer: Sequence[str],
    response: Sequence[str],
    prompt: Iterable[str],
    share: float,
    cut: bool = False,
) -> bool | None:
    """Whether `answer` recites `response`; None where the response has no words.

    Args:
        answer, response, prompt: their words (`palimpsest.metrics.rouge.Words`).
        share: of the response's words, above 0, up to 1.
        cut: whether the limit ended the answer.
    """
    if not response:
        return None
    known = set(prompt)
    right = [word for word in response if word not in known]
    said = [word for word in answer if word not in known]
    if not right:
        right, said = list(response), list(answer)
    if len(right) == 1:
        return bool(said) and right[0] in (said[0], said[-1])
    return _whole(said, right, share) or (cut and _beginning(said[:-1], right, share))


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence (Hyyrö 2004: a bit for each word of `second`)."""
    places = _places(second)
    full = (1 << len(second)) - 1
    row = full
    for word in first:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(second) - row.bit_count()


def _places(words: Sequence[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | (1 << place)
    return places


def _needed(count: int, share: float) -> float:
    return share * count - 1e-9  # 9 of 10 are 0.9 of them, whatever the rounding


def _whole(said: Sequence[str], right: Sequence[str], share: float) -> bool:
    needed = _needed(len(right), share)
    length = int(len(right) / share + 1e-9)
    # Counting the words in any order is quick, and refuses almost every answer.
    if (Counter(said) & Counter(right)).total() < needed:
        return False
    starts = range(max(1, len(said) - length + 1))
    return any(common(said[start : start + length], right) >= needed for start in starts)


def _beginning(said: Sequence[str], right: Sequence[str], share: float) -> bool:
    lengths = range(BEGINNING, min(len(said), len(right)) + 1)
    return any(common(said[-k:], right[:k]) >= _needed(k, share) for k in lengths)
