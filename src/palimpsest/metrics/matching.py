"""Whether an answer contains a key string, as a whole word, whatever the case."""

from __future__ import annotations

import re
from collections.abc import Iterable

from palimpsest.metrics.normalise import in_word, needs_space, normalise

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_UNITS = "one|two|three|four|five|six|seven|eight|nine"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_LARGE = "hundred|thousand|million|billion|trillion"
# "two" is not in "twenty-two", "thirty" not in "thirty-five", "five" not in "five hundred".
_UNIT_START = re.compile(rf"(?:{_UNITS})\b")
_TENS_BEFORE = re.compile(rf"\b(?:{_TENS})[- ]$")
_NUMBER_END = re.compile(rf"\b(?:{_UNITS}|{_TENS})$")
_TENS_END = re.compile(rf"\b(?:{_TENS})$")
_LARGE_AFTER = re.compile(rf"[- ](?:{_LARGE})\b")
_UNIT_AFTER = re.compile(rf"[- ](?:{_UNITS})\b")
_NUMERAL_BEFORE = re.compile(r"\d[.,]$")
_NUMERAL_AFTER = re.compile(r"[.,]\d")


def contains(text: str, key: str) -> bool:
    """Whether `key` stands in `text` as a whole word or phrase, whatever the case.

    Typographic quotes and hyphens and thousands separators make no difference. A key that is (or
    ends in) a number does not match inside a longer number, written in digits or in English words.
    Where a script sets no spaces between words (Chinese, Japanese), any position will do. A blank
    key is in no text.
    """
    text, key = _comparable(text), _comparable(key)
    start = text.find(key) if key else -1
    while start >= 0:
        if _starts_word(text, key, start) and _ends_word(text, key, start + len(key)):
            return True
        start = text.find(key, start + 1)
    return False


def contains_all(text: str, keys: Iterable[str]) -> bool:
    """Whether `text` contains every key (see `contains`)."""
    return all(contains(text, key) for key in keys)


def contains_any(text: str, keys: Iterable[str]) -> bool:
    """Whether `text` contains at least one key (see `contains`)."""
    return any(contains(text, key) for key in keys)


def usable(keys: Iterable[str] | None) -> list[str]:
    """The keys that are not blank."""
    return [key for key in keys or () if key and key.strip()]


def _comparable(text: str) -> str:
    return _THOUSANDS.sub("", normalise(text))


def _starts_word(text: str, key: str, start: int) -> bool:
    before = text[max(0, start - 12) : start]
    if not before:
        return True
    if needs_space(key[0]) and in_word(before[-1]):
        return False
    if key[0].isdigit() and _NUMERAL_BEFORE.search(before):
        return False
    return not (_UNIT_START.match(key) and _TENS_BEFORE.search(before))


def _ends_word(text: str, key: str, end: int) -> bool:
    after = text[end : end + 12]
    if not after:
        return True
    if needs_space(key[-1]) and in_word(after[0]):
        return False
    if key[-1].isdigit() and _NUMERAL_AFTER.match(after):
        return False
    if _TENS_END.search(key) and _UNIT_AFTER.match(after):
        return False
    return not (_NUMBER_END.search(key) and _LARGE_AFTER.match(after))
