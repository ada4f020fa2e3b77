"""``like: <other entry>``: an entry has the keys of another one, save those that it sets itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palimpsest.config.problems import Place, Problem, as_key, shown
from palimpsest.errors import did_you_mean
from palimpsest.settings.merge import deep_merge

LIKE = "like"
"""The key that names the other entry."""


@dataclass(frozen=True)
class Inherited:
    """An entry with what it inherits.

    Attributes:
        value: the whole table, without ``like``.
        line: the entry's name, then the name of the entry that it is like, and so on.
        entries: of a subject: its methods, with what they inherit from each other; else empty.
    """

    value: Any
    line: tuple[str, ...]
    entries: Mapping[str, Inherited] = field(default_factory=dict)


def inherit(
    table: Any,
    at: Place,
    problems: list[Problem],
    only: Collection[str] | None = None,
    never: Collection[str] = (),
) -> dict[str, Inherited]:
    """Every entry of a table with what it inherits.

    Args:
        table: name -> entry, as the user wrote it; anything else has no entries.
        at: its place.
        problems: gets a problem for every ``like`` that leads nowhere or back to its own entry.
        only: keys that are inherited; None: all.
        never: keys that are not inherited.
    """
    if not isinstance(table, Mapping):
        return {}
    entries = {name: entry for name, entry in table.items() if isinstance(name, str)}
    heirs = {}
    for name, entry in entries.items():
        line = _line(name, entries, at, problems)
        value = _without(entry, (LIKE,))
        for ancestor in line[1:]:
            inherited = _without(entries[ancestor], (LIKE, *never), only)
            if isinstance(inherited, Mapping) and isinstance(value, Mapping):
                value = deep_merge(inherited, value)
        heirs[name] = Inherited(value, line)
    return heirs


def _line(
    name: str, entries: Mapping[str, Any], at: Place, problems: list[Problem]
) -> tuple[str, ...]:
    line = [name]
    while isinstance(entry := entries[line[-1]], Mapping) and entry.get(LIKE) is not None:
        other = entry[LIKE]
        place = (*at, line[-1], LIKE)
        if not isinstance(other, str):
            problems.append(Problem(place, f"the name of an entry is needed, not {shown(other)}"))
            break
        if other not in entries:
            others = [key for key in entries if key != line[-1]]
            problems.append(Problem(place, f"no entry '{other}'{did_you_mean(other, others)}"))
            break
        if other in line:
            problems.append(_circle(line[line.index(other) :], at))
            break
        line.append(other)
    return tuple(line)


def _circle(names: list[str], at: Place) -> Problem:
    # The text is the same wherever the circle is entered, so that it is reported once.
    first = names.index(min(names))
    names = [*names[first:], *names[: first + 1]]
    text = f"leads back to itself ({' -> '.join(names)}); write the values of one of them out"
    return Problem((*at, names[0], LIKE), text)


def _without(entry: Any, keys: Collection[str], only: Collection[str] | None = None) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    values = {key: value for key, value in entry.items() if only is None or key in only}
    return {key: value for key, value in values.items() if key not in keys}


def first_holding(raw: Any, prefixes: Sequence[Place], inner: Place) -> Place:
    """The first of `prefixes` below which a value stands at `inner`; else the first of all."""
    return next((p for p in prefixes if holds(raw, (*p, *inner))), prefixes[0])


def holds(raw: Any, place: Place) -> bool:
    """Whether a value stands at a place of nested tables and lists."""
    return value_at(raw, place) is not _NOTHING


def value_at(raw: Any, place: Place) -> Any:
    """The value at a place of nested tables and lists; `_NOTHING` if there is none."""
    for step in place:
        if isinstance(raw, Mapping):
            # Places hold keys as text; YAML may have read a number.
            raw = next((v for k, v in raw.items() if k == step or as_key(k) == step), _NOTHING)
        elif isinstance(raw, list) and isinstance(step, int) and step < len(raw):
            raw = raw[step]
        else:
            return _NOTHING
    return raw


_NOTHING = object()
