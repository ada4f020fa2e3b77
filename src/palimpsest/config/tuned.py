"""Checks of tuned methods: their plans, what they are like, and what a search may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palimpsest.config.problems import Place, Problem
from palimpsest.config.schema import Model
from palimpsest.config.spaces import lacks_own, points_faults, space_faults
from palimpsest.errors import did_you_mean
from palimpsest.objectives.base import Objective
from palimpsest.settings.merge import deep_merge


def check_tuned(
    raw: Mapping[str, Any],
    lines: Mapping[str, Sequence[str]],
    catalogs: Mapping[str, Mapping[str, Any]],
) -> Iterator[Problem]:
    """Yield what is wrong with the tuned methods.

    Args:
        raw: the configuration as written.
        lines: method -> its name, then that of the one that it is like, and so on.
        catalogs: the entries that are valid in themselves.
    """
    methods: Mapping[str, Objective] = catalogs["methods"]
    for name, settings in methods.items():
        at: Place = ("methods", name)
        tuned = [one for one in lines[name][1:] if _own(raw, one).get("tune") is not None]
        if tuned:
            text = f"'{tuned[0]}' is tuned itself; name the entry that it begins with"
            yield Problem((*at, "like"), text)
        elif settings.tune is None:
            for key in ("space", "points"):
                if _own(raw, name).get(key):
                    yield Problem((*at, key), "there is no plan; name one with `tune`")
        elif settings.tune not in catalogs["tuning"]:
            plans = raw.get("tuning")
            known = plans if isinstance(plans, Mapping) else {}
            if settings.tune not in known:
                text = f"no plan '{settings.tune}'{did_you_mean(settings.tune, known)}"
                yield Problem((*at, "tune"), text)
        else:
            most = catalogs["tuning"][settings.tune].trials - 1
            if len(settings.points) > most:
                text = f"the plan has room for {most} points after its first; raise its trials"
                yield Problem((*at, "points"), text)
            yield from _check_space(settings, name, catalogs["models"])


def _own(raw: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    entry = raw["methods"].get(method)
    return entry if isinstance(entry, Mapping) else {}


def _check_space(settings: Objective, name: str, models: Mapping[str, Model]) -> Iterator[Problem]:
    at: Place = ("methods", name, "space")
    if settings.space and settings.points:
        yield Problem(("methods", name, "points"), "there is a space, too; leave one of them out")
    found = list(space_faults(settings, settings.space))
    for key, fault in found:
        yield Problem((*at, key) if key else at, fault)
    for place, fault in points_faults(settings, settings.points):
        yield Problem(("methods", name, "points", place), fault)
    lacking = None if found else lacks_own(settings, settings.space)
    if lacking is not None:
        subjects = [_in(settings, model, name) for model in models.values()]
        # What one subject's own values are outside of may be meant for another.
        if not any(one and lacks_own(one, settings.space) is None for one in subjects):
            yield Problem(at, lacking)


def _in(settings: Objective, model: Model, name: str) -> Objective | None:
    """The settings for a subject; None where they are faulty, which is reported elsewhere."""
    override = deep_merge(model.defaults, model.methods.get(name, {}))
    try:
        return type(settings)(**deep_merge(settings.model_dump(), override))
    except ValueError:
        return None
