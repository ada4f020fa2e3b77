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
from typing import Generic, TypeVar, cast

from palimpsest.errors import UserError, did_you_mean

P = TypeVar("P")


class Plugins(Generic[P]):
    """The plug-ins of a package, `P` being what the file of one holds."""

    def __init__(self, package: str, kind: str) -> None:
        """`package` as imported (``palimpsest.judges``); `kind`: what messages call one (judge)."""
        self.package, self.kind = package, kind

    def all(self) -> dict[str, P]:
        """Name -> plug-in, sorted by name."""
        return cast("dict[str, P]", _files(self.package))

    def module(self, name: str) -> str:
        """The module of a plug-in, as imported."""
        return f"{self.package}.{name}"

    def get(self, name: str) -> P:
        """The plug-in called `name`.

        Raises:
            UserError: there is no such plug-in; the message lists the valid names.
        """
        files = self.all()
        if name not in files:
            raise UserError(f"no {self.kind} '{name}'{did_you_mean(name, files)}")
        return files[name]


@functools.cache
def _files(package: str) -> dict[str, ModuleType]:
    names = sorted(
        file.name for file in pkgutil.iter_modules(importlib.import_module(package).__path__)
    )
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names}
    return {name: module for name, module in modules.items() if "Settings" in vars(module)}
