"""The list of methods: every class of `palimpsest.objectives` that is a method."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from palimpsest import objectives
from palimpsest.errors import UserError, did_you_mean
from palimpsest.objectives.base import Acquisition, Objective, Unlearning


@functools.cache
def algorithms() -> dict[str, type[Objective]]:
    """Algorithm key -> its class."""
    return {
        key: method
        for method in _methods()
        for key in get_args(method.model_fields["algorithm"].annotation)
    }


def _methods() -> Iterator[type[Objective]]:
    for info in pkgutil.iter_modules(objectives.__path__, f"{objectives.__name__}."):
        if info.name == __name__:
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            # Teaching (pretraining) is an objective, but no method.
            if (
                inspect.isclass(value)
                and issubclass(value, Unlearning | Acquisition)
                and value.__module__ == info.name
                and not inspect.isabstract(value)
            ):
                yield value


def objective(settings: Mapping[str, Any]) -> Objective:
    """The objective that a table of settings describes; its ``algorithm`` names the class.

    Raises:
        UserError: there is no such algorithm.
    """
    key = settings["algorithm"]
    if key not in algorithms():
        raise UserError(f"no algorithm '{key}'{did_you_mean(key, algorithms())}")
    return algorithms()[key](**settings)


def _method_entry() -> Any:
    # No set: the JSON schema must have the same order in every run.
    classes = tuple(dict.fromkeys(algorithms().values()))
    return Annotated[Union[classes], Field(discriminator="algorithm")]  # noqa: UP007


if TYPE_CHECKING:
    MethodEntry = Objective
else:
    MethodEntry = _method_entry()
