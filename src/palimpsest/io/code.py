"""Code counts by what it does: hashes of modules that an edited comment does not change.

Comments, docstrings and layout change no result, and a corrected word must not train a model again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def code_hash(module: str) -> str:
    """Hash of a plug-in's code: its module and the modules of its own package that it imports.

    What the module imports from elsewhere (engine, settings, data) belongs to the stage, whose
    ``version`` stands for it.

    Args:
        module: its name as imported, ``palimpsest.objectives.sku``.
    """
    package = module if _is_package(module) else module.rpartition(".")[0]
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            tree = ast.parse(_file(name).read_bytes())
            waiting += imported(tree, package)
            seen[name] = ast.unparse(_bare(tree))
    return _digest(seen)


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
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module and no package
        return False


@functools.cache
def _is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _bare(tree: ast.AST) -> ast.AST:
    """A module without docstrings: texts that stand alone, of fields as well."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
