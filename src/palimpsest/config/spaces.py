"""The space of a tuned method: the default one, and what is wrong with one that is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from palimpsest.config.inherit import value_at
from palimpsest.config.problems import explain
from palimpsest.errors import did_you_mean
from palimpsest.objectives.base import Objective
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.space import Dimension

MOST = 4
"""Settings that a space may have: few trials say nothing of more."""

WIDTHS = {"training.optimizer.learning_rate": 10.0, "steps": 2.0}
"""By how much a default space goes below and above an entry's own value, as a factor."""
WIDTH = 10**0.5
"""The same of other settings: a decade in all."""

FIXED = {
    "rows": "how much memory a job needs",
    "training.lora": "what is trained, and how much memory that needs",
    "training.tensors": "what is trained",
    "training.parameters": "what is trained",
    "training.compile": "how a job runs",
    "training.gradient_checkpointing": "how a job runs",
    "training.checkpoint_seconds": "how a job runs",
    "training.perturb": "what a step runs",
    "training.gradients": "what a step runs",
    "start": "what is trained",
    "region": "what is trained",
    "attack": "what a step runs",
    "merge": "which files are read",
    "scale": "the size of the change, which every trial tries (`scales` of the plan)",
    "seeds": "chance; trials share one seed, and the result has `final_seeds` of the plan",
    **dict.fromkeys(("algorithm", "title", "like", "tune", "space", "points"), "no number"),
}
"""Settings that a space cannot have, with all below them -> what they decide."""


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    tables: dict[str, Any] = {}
    for place, value in flat.items():
        for key in reversed(place.split(".")):
            value = {key: value}
        tables = deep_merge(tables, value)
    return tables


def own_value(settings: Objective, key: str) -> Any:
    """The entry's own value of a dotted key; None where it has none."""
    value = value_at(settings.model_dump(), tuple(key.split(".")))
    return value if isinstance(value, bool | int | float | str) else None


def default_space(settings: Objective) -> dict[str, Dimension]:
    """Values around those of an entry: of the settings in `tunes` that are numbers above 0."""
    space: dict[str, Dimension] = {}
    for key in settings.tunes:
        value = own_value(settings, key)
        counts = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if counts and not _labels(settings, key) and len(space) < MOST:
            space[key] = Dimension(log=_around(settings, key, value))
    return space


def _around(settings: Objective, key: str, value: float) -> tuple[float, float]:
    width = WIDTHS.get(key, WIDTH)
    low, high = value / width, value * width
    if isinstance(value, int):
        least = settings.training.optimizer.warmup_steps + 1 if key == "steps" else 1
        low, high = min(value, max(least, int(low))), round(high)
    return float(f"{low:.6g}"), float(f"{high:.6g}")


def space_of(settings: Objective, written: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """The space of an entry with these settings, sorted by key."""
    return dict(sorted((written or default_space(settings)).items()))


def own_points(settings: Objective, space: Mapping[str, Dimension]) -> dict[str, Any]:
    """The entry's own values of a space that holds them; of choices as they are written."""
    return {
        key: own_value(settings, key)
        if one.choices is None
        else next(v for v in one.choices if _read(settings, key, v) == own_value(settings, key))
        for key, one in space.items()
    }


def space_faults(settings: Objective, space: Mapping[str, Dimension]) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong with it) of a space for an entry with these settings."""
    if len(space) > MOST:
        yield "", f"{len(space)} settings; at most {MOST} can be searched"
    for key, dimension in space.items():
        if fault := _fault(settings, key, dimension):
            yield key, fault


def points_faults(settings: Objective, points: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield (place, what is wrong with it) of points for an entry with these settings."""
    for place, point in enumerate(points):
        faults = (
            _key_fault(settings, key) or _value_fault(settings, {key: value})
            for key, value in point.items()
        )
        if fault := next(filter(None, faults), None) or _value_fault(settings, point):
            yield place, fault


def _labels(settings: Objective, key: str) -> bool:
    return key.split(".")[0] in settings.labelled_by


def _key_fault(settings: Objective, key: str) -> str | None:
    for fixed, decides in FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            return f"'{key}' decides {decides}, so no trial can change it"
    if _labels(settings, key):
        return f"'{key}' decides labels that are made before training, so no trial can change it"
    if own_value(settings, key) is None:
        known = [name for name in _numbers(settings.model_dump()) if not _is_fixed(name)]
        return f"no number '{key}' among the entry's settings{did_you_mean(key, known)}"
    return None


def _is_fixed(key: str) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def _numbers(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key


def _fault(settings: Objective, key: str, dimension: Dimension) -> str | None:
    if fault := _key_fault(settings, key):
        return fault
    own = own_value(settings, key)
    if dimension.ends is not None and (isinstance(own, bool) or not isinstance(own, int | float)):
        return f"'{key}' is {own!r}, no number; write choices"
    values = dimension.choices if dimension.ends is None else list(dimension.ends)
    for value in values or []:
        if fault := _value_fault(settings, {key: value}):
            return fault
    return None


def lacks_own(settings: Objective, space: Mapping[str, Dimension]) -> str | None:
    """What is wrong with a space that does not hold the entry's own values; None: it does."""
    for key, dimension in space.items():
        own, ends = own_value(settings, key), dimension.ends
        if ends is None:
            # As they are read: "1e-4" is a number.
            same = [_read(settings, key, value) for value in dimension.choices or []]
            inside = own in same
        else:
            inside = own is not None and ends[0] <= own <= ends[1]
        if not inside:
            tried = dimension.choices if ends is None else f"{ends[0]:g} to {ends[1]:g}"
            return (
                f"'{key}' is {own!r} in the entry itself, and the space has {tried}: it must hold "
                "the entry's own value, which is the first trial"
            )
    return None


def _read(settings: Objective, key: str, value: Any) -> Any:
    return own_value(type(settings)(**_with(settings, {key: value})), key)


def _with(settings: Objective, point: Mapping[str, Any]) -> dict[str, Any]:
    return deep_merge(settings.model_dump(), nested(point))


def _value_fault(settings: Objective, point: Mapping[str, Any]) -> str | None:
    try:
        other = type(settings)(**_with(settings, point))
    except ValidationError as error:
        problem = explain(error, type(settings), ())[0]
        return f"{'.'.join(map(str, problem.place)) or next(iter(point))}: {problem.text}"
    if other.steps <= other.training.optimizer.warmup_steps:
        return f"{other.steps} steps are no more than the entry's warmup_steps"
    if _files(other) != _files(settings):
        shown = ", ".join(f"{key} {value}" for key, value in point.items())
        return f"{shown}: the method would read other files or rows than the entry itself does"
    return None


def _files(settings: Objective) -> Any:
    """What decides the files that a training reads, and what a step runs."""
    return settings.draws(), settings.reads(), settings.vectors(), settings.adversary()
