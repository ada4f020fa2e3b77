"""Problems of a configuration in plain words: where, what, and what would be valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palimpsest.errors import UserError, did_you_mean, one_line, one_screen
from palimpsest.settings.types import LARGEST, Section

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """A mistake at one place of the configuration.

    Attributes:
        place: where it stands.
        text: what is wrong, and what would be valid.
        file: its file, if known.
        heir: the entry that inherits the value, if the mistake is one there.
    """

    place: Place
    text: str
    file: str = ""
    heir: Place = ()

    def __str__(self) -> str:
        file = f"{one_line(self.file, 120)}: " if self.file else ""
        heir = f" ({_path(self.heir)} is like it)" if self.heir else ""
        return f"{file}{_path(self.place)}: {one_line(self.text, 800)}{heir}"


def _path(place: Place) -> str:
    """A place as text: ``a.b[0]``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{one_line(step, 60)}" for step in place)
    return one_line("".join(steps).removeprefix("."), 300)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise one `UserError` that lists all problems; do nothing if there are none."""
    found = list(problems)
    own = {replace(problem, heir=()) for problem in found if not problem.heir}
    lines = list(
        dict.fromkeys(str(p) for p in found if not p.heir or replace(p, heir=()) not in own)
    )
    if len(lines) == 1:
        raise UserError(f"config: {lines[0]}")
    if lines:
        heading = f"config has {len(lines)} problems:"
        raise UserError("\n  ".join(one_screen([heading, *lines])))


def explain(error: ValidationError, section: type[Section], at: Place) -> list[Problem]:
    """Put pydantic's errors about `section`, which stands at the place `at`, into plain words."""
    texts: dict[Place, list[str]] = {}
    for detail in error.errors(include_url=False):
        place, annotation = _walk(section, detail["loc"])
        if detail["type"] == "extra_forbidden":
            place, text = detail["loc"], _unknown_key(annotation, detail)
        else:
            text = _text(detail, annotation)
        texts.setdefault(at + place, []).append(text)
    return [Problem(place, "; or ".join(dict.fromkeys(lines))) for place, lines in texts.items()]


def _walk(section: type[Section], loc: Place) -> tuple[Place, Any]:
    """Follow `loc` from `section`: the steps that name a key or an index, and the type there.

    pydantic adds other steps: ``[key]`` (the last key itself is wrong), branches of a union.
    """
    place: Place = ()
    annotation: Any = section
    parent: Any = None
    labelled = False
    for step in loc:
        if step == "[key]" and (keys := _keys(parent)) is not None:
            annotation = keys
        elif labelled := not labelled and _is_union(annotation):
            continue
        elif (child := _child(annotation, step)) is not None:
            place, parent, annotation = (*place, step), annotation, child
    return place, annotation


def _is_union(annotation: Any) -> bool:
    """Whether pydantic puts the label of a branch before the steps below."""
    return sum(option is not NoneType for option in _options(annotation)) > 1


def _child(annotation: Any, step: str | int) -> Any:
    for option in _options(annotation):
        origin, args = get_origin(option), get_args(option)
        if isinstance(option, type) and issubclass(option, Section) and step in option.model_fields:
            return option.model_fields[str(step)].annotation
        if origin is dict:
            return args[1]
        if origin in (list, tuple) and isinstance(step, int):
            return args[0]
    return None


def _keys(annotation: Any) -> Any:
    """The type of a table's keys; None if it is no table (a user may call a key ``[key]``)."""
    tables = (get_args(o) for o in _options(annotation) if get_origin(o) is dict)
    return next((keys for keys, _ in tables), None)


def _options(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _unknown_key(annotation: Any, detail: ErrorDetails) -> str:
    keys = [
        key
        for option in _options(annotation)
        if isinstance(option, type) and issubclass(option, Section)
        for key in option.model_fields
    ]
    return f"unknown key{did_you_mean(str(detail['loc'][-1]), keys)}"


_NEEDED = {
    "int": "a whole number is needed",
    "float": "a number is needed",
    "finite": "a finite number is needed",
    "bool": "true or false is needed",
    "string": "text is needed",
    "list": "a list is needed",
    "tuple": "a list is needed",
    "dict": "a table of keys is needed",
    "model": "a table of keys is needed",
}
"""First word of pydantic's error type -> what should stand there."""

_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
"""pydantic's error type -> words, and the key of its context that holds the limit."""


def _text(detail: ErrorDetails, annotation: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "value_error":
        return str(context["error"])
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]:g}, not {shown(value)}"
    if kind == "literal_error":
        choices = [c for o in _options(annotation) if get_origin(o) is Literal for c in get_args(o)]
        return f"{shown(value)} is not a choice{did_you_mean(as_key(value), choices)}"
    if kind in ("too_short", "too_long"):
        words = f"at {'least' if kind == 'too_short' else 'most'} "
        limit = context["min_length" if kind == "too_short" else "max_length"]
        return f"{words}{limit} {'entry is' if limit == 1 else 'entries are'} needed"
    if (word := kind.split("_")[0]) in _NEEDED:
        quote = "; put it in quotes" if word == "string" and not _is_nested(value) else ""
        return f"{_NEEDED[word]}, not {shown(value)}{quote}"
    return detail["msg"]


def _is_nested(value: Any) -> bool:
    return value is None or isinstance(value, dict | list)


def as_key(key: Any) -> str:
    """A key as a step of a place; without quotes, YAML reads numbers, dates and null."""
    huge = isinstance(key, int) and abs(key) > LARGEST
    return shown(key) if huge else str(key)


def shown(value: Any) -> str:
    """A value as a user wrote it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number that is too large"  # Python refuses to write one of 4300 digits
    if isinstance(value, set | frozenset):
        return "a set"
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
