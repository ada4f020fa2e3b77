"""Marks in answers: words that changed, and strings that carry the fact."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A piece of an answer and how it is marked."""

    text: str
    change: str = ""
    """``new`` (not in the first answer), ``gone`` (only in the first answer) or empty."""
    key: bool = False
    """Part of a string that carries the fact."""


def marked(answer: str, keys: Iterable[str], before: str | None = None) -> list[Span]:
    """Split `answer` into spans, which join to `answer` but for words that only `before` has.

    Args:
        answer: the text that is shown.
        keys: strings that carry the fact; whole words, in any case.
        before: the answer to compare words with; None: compare nothing.
    """
    keys = list(keys)
    if before is None:
        return _with_keys(answer, "", answer, 0, keys)
    old, new = _words(before), _words(answer)
    matcher = difflib.SequenceMatcher(None, _plain(old), _plain(new), autojunk=False)
    spans: list[Span] = []
    position = 0
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag in ("delete", "replace"):
            spans.append(Span("".join(old[i1:i2]).rstrip(), "gone"))
        for piece, change in _pieces("".join(new[j1:j2]), tag):
            spans += _with_keys(piece, change, answer, position, keys)
            position += len(piece)
    return spans


def _pieces(text: str, tag: str) -> list[tuple[str, str]]:
    """Mark new words, without the space after them."""
    if tag == "equal":
        return [(text, "")] if text else []
    words = text.rstrip()
    return [
        (piece, change) for piece, change in ((words, "new"), (text[len(words) :], "")) if piece
    ]


def _words(text: str) -> list[str]:
    # Each word has the space after it, so that the words join to the text.
    return re.findall(r"\S+\s*|^\s+", text)


def _plain(words: list[str]) -> list[str]:
    return [re.sub(r"\W", "", word).casefold() or word.strip() for word in words]


def _with_keys(piece: str, change: str, answer: str, start: int, keys: list[str]) -> list[Span]:
    """Cut `piece` (at `start` of `answer`) where a key string begins or ends."""
    covered = [False] * len(answer)
    for key in filter(str.strip, keys):
        pattern = r"\s+".join(map(re.escape, key.split()))
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", answer, re.IGNORECASE):
            covered[match.start() : match.end()] = [True] * (match.end() - match.start())
    spans: list[Span] = []
    for offset, character in enumerate(piece):
        is_key = covered[start + offset]
        if spans and spans[-1].key == is_key:
            spans[-1] = Span(spans[-1].text + character, change, is_key)
        else:
            spans.append(Span(character, change, is_key))
    return spans
