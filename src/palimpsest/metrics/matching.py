"""Whether an answer contains a key string, as a whole word, whatever the case and markup."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable

from palimpsest.metrics.normalise import in_word, needs_space, normalise

_INLINE = "a|abbr|b|big|cite|code|del|em|font|i|ins|kbd|mark|q|s|small|span|strong|sub|sup|tt|u|var"
_BLOCK = "blockquote|br|center|dd|div|dl|dt|h[1-6]|hr|img|li|ol|p|pre|table|tbody|td|th|thead|tr|ul"
_REST_OF_TAG = r"""(?:\s+[\w:-]+=(?:"[^"]*"|'[^']*'|[^\s<>"']+))*\s*/?>"""
_MARKUP = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(?i)</?(?:{_INLINE}){_REST_OF_TAG}", ""),
        (rf"(?i)</?(?:{_BLOCK}){_REST_OF_TAG}", " "),
        (r"!?\[([^\[\]]*)\]\([^()\s]*\)", r"\1"),  # a link or a picture
        (r"\\(?:emph|text\w*|math\w*)\{([^{}]*)\}", r"\1"),
        (r"\\(?=[^\w\s])", ""),  # an escaped mark
        (r"(?m)^[ \t]*(?:[>#]+|[*+-])[ \t]", " "),  # a quotation, a heading, an item of a list
        (r"(?<!\d)\*+|\*+(?!\d)|`+|~~", ""),
        (r"(?<![^\W_])_+|_+(?![^\W_])", ""),
    )
]
"""Markup of Markdown, HTML and LaTeX -> what is read, in the order of replacement."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NO_BREAK = re.compile("(?<=\\d)[\u00a0\u2007-\u2009\u202f](?=\\d{3}(?!\\d))")
_SPACED_NUMBER = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_NOUN = re.compile(r"[^\W\d_]{3,}$")
_PLURAL = re.compile(r"e?s(?!\w)")
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

    Markup (Markdown, HTML tags, LaTeX's fonts), invisible characters, quotation marks, the kind of
    quotes and hyphens, a hyphen for a space and separators of thousands make no difference. The
    plural (s, es, ies) of a key that ends in a word in small letters is the key. A key that is (or
    ends in) a number does not match inside a longer number, written in digits or in English words.
    Where a script sets no spaces between words (Chinese, Japanese), any position will do. A blank
    key is in no text.
    """
    last = _NOUN.search(key.strip())
    noun = last is not None and last[0].islower()
    keys = _forms(key)
    if noun:
        keys = (*keys, *(re.sub(r"(?<=[^aeiou])y$", "ies", form) for form in keys))
    return any(_found(form, one, noun) for form in _forms(text) for one in dict.fromkeys(keys))


def _found(text: str, key: str, noun: bool) -> bool:
    start = text.find(key) if key else -1
    while start >= 0:
        if _starts_word(text, key, start) and _ends_word(text, key, start + len(key), noun):
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


@functools.lru_cache(maxsize=4096)
def _forms(text: str) -> tuple[str, ...]:
    """`text` as it is compared; twice where a space may separate thousands ("3 200 g bags")."""
    text = html.unescape(text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = normalise(_NO_BREAK.sub("", text)).replace('"', "")
    text = " ".join(_HYPHEN.sub(" ", _THOUSANDS.sub("", text)).split())
    joined = _SPACED_NUMBER.sub(lambda number: number[0].replace(" ", ""), text)
    return (text,) if joined == text else (text, joined)


def _starts_word(text: str, key: str, start: int) -> bool:
    before = text[max(0, start - 12) : start]
    if not before:
        return True
    if needs_space(key[0]) and in_word(before[-1]):
        return False
    if key[0].isdigit() and _NUMERAL_BEFORE.search(before):
        return False
    return not (_UNIT_START.match(key) and _TENS_BEFORE.search(before))


def _ends_word(text: str, key: str, end: int, noun: bool) -> bool:
    after = text[end : end + 12]
    if not after:
        return True
    if needs_space(key[-1]) and in_word(after[0]):
        return noun and _PLURAL.match(after) is not None
    if key[-1].isdigit() and _NUMERAL_AFTER.match(after):
        return False
    if _TENS_END.search(key) and _UNIT_AFTER.match(after):
        return False
    return not (_NUMBER_END.search(key) and _LARGE_AFTER.match(after))
