"""The algorithms: found by their files in `palimpsest.objectives`, one settings class each."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from palimpsest import objectives
from palimpsest.errors import UserError, did_you_mean
from palimpsest.settings.method import MethodSettings


@functools.cache
def algorithms() -> dict[str, ModuleType]:
    """Algorithm key -> its module in `palimpsest.objectives`."""
    found: dict[str, ModuleType] = {}
    for info in pkgutil.iter_modules(objectives.__path__):
        module = importlib.import_module(f"{objectives.__name__}.{info.name}")
        if settings := getattr(module, "Settings", None):
            for key in get_args(settings.model_fields["algorithm"].annotation):
                found[key] = module
    return found


def algorithm(key: str) -> ModuleType:
    """The module of an algorithm.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return algorithms()[key]
    except KeyError:
        raise UserError(f"no algorithm '{key}'{did_you_mean(key, algorithms())}") from None


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `over` win."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            deep_merge(old, value)
            if isinstance(old, Mapping) and isinstance(value, Mapping)
            else value
        )
    return merged


def _method_entry() -> Any:
    # In the order found, not a set: the JSON schema must come out the same in every run.
    classes = tuple(dict.fromkeys(module.Settings for module in algorithms().values()))
    if len(classes) == 1:
        return classes[0]
    return Annotated[Union[classes], Field(discriminator="algorithm")]  # noqa: UP007


if TYPE_CHECKING:
    MethodEntry = MethodSettings
else:
    MethodEntry = _method_entry()
