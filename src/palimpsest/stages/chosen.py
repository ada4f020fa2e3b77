"""Settings that a search chose, in place of an entry's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palimpsest.config.spaces import nested
from palimpsest.io.sealed import read_document
from palimpsest.settings.merge import deep_merge

FACTOR = "factor"
"""Key of a slice: the change of the subject is multiplied by this."""


def with_chosen(config: dict[str, Any]) -> dict[str, Any]:
    """The slice of a stage that trains or negates, with what was chosen where that is tuned.

    Raises:
        UserError: the file is missing or altered.
    """
    if "chosen" not in config:
        return config
    found = read_document(config["chosen"])
    return scaled(with_settings(config, found["settings"]), found["scale"])


def with_settings(config: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A slice with the settings of a point, by dotted keys, in place of its own."""
    if "settings" not in config:
        return config
    return {**config, "settings": deep_merge(config["settings"], nested(point))}


def scaled(config: dict[str, Any], factor: float) -> dict[str, Any]:
    """A slice whose change is multiplied by `factor`: of a task vector, its scale is."""
    if "scale" in config:
        return {**config, "scale": config["scale"] * factor}
    return {**config, FACTOR: factor}
