"""Other forms of the question: a role, a list to choose from, an object to fill in.

A text of the settings stands around each question. Besides ``{prompt}`` it may use what the row
has: ``{choices}`` (its choices, one a line) and ``{initial}`` (the first letter of its first key
string, where that is not all of it). Rows that lack one are left out. Where the choices are in the
question an answer that names a wrong one as well has chosen nothing. An answer that is spelled
letter by letter is read as words, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.errors import did_you_mean
from palimpsest.metrics.matching import contains_any, usable
from palimpsest.settings.types import Name, holding

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target
    from palimpsest.measuring.alternatives import DataRow

_FIELD = re.compile(r"\{(\w+)\}")
_LETTER = r"[^\W_]"
_SPELLED = re.compile(
    rf"(?<!{_LETTER}){_LETTER}([ .,_-]{{1,2}}){_LETTER}(?:\1{_LETTER})+(?!{_LETTER})"
)


def _choices(row: DataRow) -> str | None:
    return "\n".join(f"- {choice}" for choice in row.choices) if row.answer is not None else None


def _initial(row: DataRow) -> str | None:
    key = next(iter(usable(row.key)), "").strip()
    return key[0].upper() if sum(map(str.isalnum, key)) > 1 else None


FIELDS: Mapping[str, Callable[[DataRow], str | None]] = {
    "prompt": lambda row: row.prompt,
    "choices": _choices,
    "initial": _initial,
}
"""What a text may use of a row; None: the row has none."""


def _known(text: str) -> str:
    for name in _FIELD.findall(text):
        if name not in FIELDS:
            raise ValueError(f"no field '{name}' of a row{did_you_mean(name, FIELDS)}")
    return text


class Settings(AttackSettings):
    """Settings of other forms of the question."""

    level = "text"

    kind: Literal["wrapped"]
    """Whether a question in another form gets the fact."""
    texts: Annotated[
        dict[Name, Annotated[str, holding("{prompt}"), AfterValidator(_known)]],
        Field(min_length=1),
    ]
    """Name -> text around ``{prompt}``, with ``{choices}`` or ``{initial}``; no key strings."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each text."""
        return [Cell(name) for name in self.texts]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Ask every row in one form.

    Raises:
        UserError: the text holds a key string.
    """
    text = settings.texts[cell.setting]
    target.refuse_keys({cell.setting: text}, "attack wrapped: text")
    filled = [(row, filled_in(text, row)) for row in target.forget]
    sources = [row for row, prompt in filled if prompt is not None]
    rows = target.questions(sources, [prompt for _, prompt in filled if prompt is not None])
    answers = target.answers(target.network, rows)
    outcomes = list(target.written(sources, answers))
    whole = [unspelled(answer.text) for answer in answers]
    read = target.recalled(sources, whole, [answer.stopped for answer in answers])
    outcomes = [replace(o, value=max(o.value, v)) for o, v in zip(outcomes, read, strict=True)]
    if "choices" in _FIELD.findall(text):
        outcomes = [_chosen(row, one) for row, one in zip(sources, outcomes, strict=True)]
    facts = {"text": text, "rows": len(rows), "left_out": len(filled) - len(rows)}
    why = "" if sources else "no row has what the text uses besides {prompt}"
    return Found(outcomes, {cell.setting: facts}, why=why)


def filled_in(text: str, row: DataRow) -> str | None:
    """The text with the row's fields; None where the row lacks one."""
    values = {name: FIELDS[name](row) for name in _FIELD.findall(text)}
    if None in values.values():
        return None
    return _FIELD.sub(lambda field: values[field[1]] or "", text)


def unspelled(text: str) -> str:
    """A text in which words that are spelled (``o-r-p-h-a-n``, ``o r p h a n``) are whole."""
    return _SPELLED.sub(lambda spelled: spelled[0].replace(spelled[1], ""), text)


def _chosen(row: DataRow, one: Outcome) -> Outcome:
    others = [choice for place, choice in enumerate(row.choices) if place != row.answer]
    return replace(one, value=0.0) if contains_any(one.text or "", others) else one
