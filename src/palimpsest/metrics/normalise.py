"""One view of text for all metrics: case, spaces and typographic variants do not count."""

from __future__ import annotations

import re
import unicodedata

_TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("‘’‚‛′`", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)
_SPACELESS = "぀-ヿ㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_UNIT = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")
_SPACELESS_LETTER = re.compile(rf"[{_SPACELESS}]")
_FINAL_PUNCTUATION = " .,;:!?。、"
# Characters that show nothing (Unicode's Default_Ignorable_Code_Point): soft hyphens, zero-width
# spaces and joiners, marks of direction, variation selectors, tags.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)


def normalise(text: str) -> str:
    """NFKC, one kind of quote and hyphen, case folded, single spaces, no invisible characters."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    return " ".join(plain.translate(_TYPOGRAPHIC).casefold().split())


def without_final_punctuation(text: str) -> str:
    """`normalise`, without closing punctuation (a text of punctuation alone stays)."""
    text = normalise(text)
    return text.rstrip(_FINAL_PUNCTUATION) or text


def words(text: str) -> list[str]:
    """Runs of letters and digits, normalised; Chinese characters and kana are a word each.

    On ASCII text these are the tokens of Google's ``rouge-score``, which drops all others.
    """
    return _WORD.findall(normalise(text))


def spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each word of a text as it is written, with the punctuation at its edges."""
    return [found.span() for found in _UNIT.finditer(text)]


def in_word(character: str) -> bool:
    """Whether `character` is a letter, digit or combining mark."""
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def needs_space(character: str) -> bool:
    """Whether words that hold `character` are set apart by spaces or punctuation."""
    return in_word(character) and not _SPACELESS_LETTER.match(character)
