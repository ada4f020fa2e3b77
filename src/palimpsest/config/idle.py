"""Settings that change nothing: a method's values of which every subject has its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palimpsest.config.inherit import LIKE, holds, value_at
from palimpsest.config.problems import Place
from palimpsest.config.schema import Config, Model

_NAMES = ("algorithm", "title", "tune", "space", "points", LIKE)
"""Keys of a method that are no setting."""


def idle(table: Mapping[str, Any], cfg: Config, results: Iterable[tuple[str, str]]) -> list[str]:
    """What to say of the settings of methods in `table` that no result takes.

    Args:
        table: an overlay, or what the command line sets.
        cfg: the whole configuration, `table` included.
        results: subject and method of each result that is asked for.
    """
    asked = [(cfg.models[model], model, method) for model, method in results]
    notices = []
    for name, entry in _table(table.get("methods")).items():
        ours = [(subject, model) for subject, model, method in asked if method == name]
        for place in _leaves({k: v for k, v in _table(entry).items() if k not in _NAMES}):
            owners = [own for subject, model in ours if (own := _own(subject, model, name, place))]
            inherits = any(
                method != name and _takes(cfg, subject, method, place, value_at(entry, place))
                for subject, _, method in asked
            )
            if owners and len(owners) == len(ours) and not inherits:
                key = ".".join(map(str, ("methods", name, *place)))
                notices.append(f"{key} changes no result: there is {', '.join(owners)}")
    return notices


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _leaves(table: Mapping[str, Any]) -> Iterator[Place]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from ((key, *rest) for rest in _leaves(value))
        else:
            yield (key,)


def _own(subject: Model, model: str, method: str, place: Place) -> str | None:
    """Where a subject has a value of its own at a place of a method's settings."""
    if holds(subject.methods.get(method, {}), place):
        return ".".join(map(str, ("models", model, "methods", method, *place)))
    if holds(subject.defaults, place):
        return ".".join(map(str, ("models", model, "defaults", *place)))
    return None


def _takes(cfg: Config, subject: Model, method: str, place: Place, value: Any) -> bool:
    """Whether another method has the value, perhaps because it is like the one that sets it."""
    if method not in cfg.methods or _own(subject, "", method, place):
        return False
    return bool(value_at(cfg.methods[method].model_dump(), place) == value)
