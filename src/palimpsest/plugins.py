"""Plug-ins: a file of a package that holds a class ``Settings`` and what it configures.

The file's name is the plug-in's name, so a new file is all that a new plug-in needs. Files without
``Settings`` are no plug-ins. The configuration imports every file at the start of each command: a
plug-in imports heavy libraries inside its functions.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from palimpsest.errors import UserError, did_you_mean


@functools.cache
def plugins(package: str) -> dict[str, ModuleType]:
    """Name -> module of the plug-ins in a package (``palimpsest.judges``), sorted by name."""
    names = sorted(
        file.name for file in pkgutil.iter_modules(importlib.import_module(package).__path__)
    )
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names}
    return {name: module for name, module in modules.items() if "Settings" in vars(module)}


def plugin(package: str, name: str, kind: str) -> ModuleType:
    """The plug-in called `name` of a package.

    Raises:
        UserError: there is no such `kind` of plug-in (a judge); the message lists the valid names.
    """
    files = plugins(package)
    if name not in files:
        raise UserError(f"no {kind} '{name}'{did_you_mean(name, files)}")
    return files[name]
