"""Code counts by what it does: hashes of modules that an edited comment does not change.

Comments, docstrings and layout change no result, and a corrected word must not train a model again.
Neither does what a search varies (`palimpsest.settings.method.MethodSettings.tunes`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


@functools.cache
def code_hash(module: str, *packages: str) -> str:
    """Hash of a plug-in's code: its module and the modules of its own package that it imports.

    What the module imports from elsewhere (engine, settings, data) belongs to the stage, whose
    ``version`` stands for it.

    Args:
        module: its name as imported, ``palimpsest.objectives.sku``.
        packages: others in which code of the plug-in stands.
    """
    own = module if _is_package(module) else module.rpartition(".")[0]
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            tree, seen[name] = _parsed(_file(name).read_bytes())
            waiting += [found for package in (own, *packages) for found in imported(tree, package)]
    return _digest(seen)


@functools.cache
def _parsed(source: bytes) -> tuple[ast.AST, str]:
    """A module without docstrings, and its text; several plug-ins import the same one."""
    tree = _bare(ast.parse(source))
    return tree, ast.unparse(tree)


@functools.cache
def package_hash(package: str) -> str:
    """Hash of the code of all files of a package, as `code_hash` reads them."""
    folder = _file(package).parent
    return _digest(
        {
            str(path.relative_to(folder)): ast.unparse(_bare(ast.parse(path.read_bytes())))
            for path in folder.rglob("*.py")
        }
    )


def _digest(code: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:16]


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Modules of `package` that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # ``from package import name``: a module or what its __init__ defines.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if _inside(name, package) and _is_module(name))


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@functools.cache
def _is_module(name: str) -> bool:
    return _spec(name) is not None


@functools.cache
def _is_package(name: str) -> bool:
    spec = _spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _file(module: str) -> Path:
    spec = _spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; its parents are not imported, for some would import torch."""
    parent = name.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(name)
    above = _spec(parent)
    folders = None if above is None else above.submodule_search_locations
    return None if folders is None else PathFinder.find_spec(name, folders)


def _bare(tree: ast.AST) -> ast.AST:
    """A module without docstrings (texts that stand alone, of fields as well) and `tunes`."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not (_is_text(line) or _is_tunes(line))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _is_tunes(line: ast.AST) -> bool:
    return isinstance(line, ast.Assign) and [ast.unparse(one) for one in line.targets] == ["tunes"]
