"""The measures: each file declares those of one kind, beside their formulas.

Every file here counts, and every variable of a file that is a declaration: a `Column` of
rows.parquet, a `Measure` of eval.json, a `Comparison` of compare.json. Files are read in the order
of their names, declarations in the order in which they stand. A file that needs a declaration of
another one imports the file: an imported declaration would count twice.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from palimpsest.metrics.declaration import Column, Comparison, Measure

T = TypeVar("T", Column, Measure, Comparison)


@functools.cache
def files() -> tuple[ModuleType, ...]:
    """The modules of this package."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def declared_in(file: ModuleType, kind: type[T]) -> list[T]:
    """The declarations of one file."""
    return [value for value in vars(file).values() if isinstance(value, kind)]


@functools.cache
def measures() -> tuple[Measure, ...]:
    """Every measure of eval.json.

    Raises:
        ValueError: a block has two measures of one name.
    """
    declared = tuple(measure for file in files() for measure in declared_in(file, Measure))
    places = [(block, measure.name) for measure in declared for block in measure.blocks]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise ValueError(f"block '{twice[0][0]}' has two measures '{twice[0][1]}'")
    return declared


@functools.cache
def columns() -> tuple[Column, ...]:
    """Every column of rows.parquet that is computed: those of the measures, and the others.

    Raises:
        ValueError: two columns have one name.
    """
    by_name: dict[str, Column] = {}
    for value in (value for file in files() for value in vars(file).values()):
        column = value.column if isinstance(value, Measure) else value
        if isinstance(column, Column) and by_name.setdefault(column.name, column) is not column:
            raise ValueError(f"two columns of rows.parquet are called '{column.name}'")
    return tuple(by_name.values())


@functools.cache
def comparisons() -> tuple[Comparison, ...]:
    """Every key of compare.json besides the differences."""
    return tuple(entry for file in files() for entry in declared_in(file, Comparison))


def measures_of(block: str) -> list[Measure]:
    """The measures of one block of eval.json."""
    return [measure for measure in measures() if block in measure.blocks]


def blocks() -> list[str]:
    """The blocks of eval.json that are made of measures."""
    return list(dict.fromkeys(block for measure in measures() for block in measure.blocks))
