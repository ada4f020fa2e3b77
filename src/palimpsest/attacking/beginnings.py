"""Where the answer's fact stands in a response: beginnings before it, and the blank in its place.

Words are those between spaces, with their punctuation; a text is cut at their edges alone, so that
its tokens are those of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from palimpsest.metrics.matching import contains, usable
from palimpsest.metrics.normalise import spans

Words = int | Literal["half", "before"]
"""How much of a response is given: its first words, half of those before the key, or all these."""

BLANK = "____"

_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


def words_before(response: str, keys: Sequence[str]) -> int:
    """Words before the first one that a key string has a part in; without keys, all but the last.

    Raises:
        ValueError: a key does not stand in the response.
    """
    if not (present := usable(keys)):
        return max(0, len(spans(response)) - 1)
    return min(_place(response, key)[0] for key in present)


def beginning(response: str, keys: Sequence[str], words: Words) -> tuple[str, bool]:
    """The beginning of a response, at most up to its first key word.

    Returns:
        The beginning without a space at its end, "" where the first word is of a key; and whether
        it is shorter than `words` says because the key comes before.
    """
    most = words_before(response, keys)
    wanted = {"half": -(-most // 2), "before": most}[words] if isinstance(words, str) else words
    count = min(wanted, most)
    return response[: spans(response)[count - 1][1]] if count else "", count < wanted


def blanked(response: str, keys: Sequence[str]) -> str:
    """The response with `BLANK` in place of every key string; punctuation beside it stays."""
    for key in usable(keys):
        while contains(response, key):
            first, last = _place(response, key)
            at = spans(response)
            start, end = at[first][0], at[last][1]
            edges = _EDGES.match(response[start:end])
            kept = edges.group(1, 3) if edges and edges[2] else ("", "")
            response = response[:start] + BLANK.join(kept) + response[end:]
    return response


def _place(text: str, key: str) -> tuple[int, int]:
    """First and last word of the first place of a key in a text."""
    at = spans(text)
    for last, (_, end) in enumerate(at):
        if contains(text[:end], key):
            starts = (n for n in range(last, -1, -1) if contains(text[at[n][0] : end], key))
            return next(starts), last
    raise ValueError(f"{key!r} does not stand in {text!r:.80}")
