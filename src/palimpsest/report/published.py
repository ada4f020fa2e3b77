"""A benchmark's published figures beside ours: ``results/benchmarks/<name>.html``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from palimpsest.config.yaml_files import read_yaml
from palimpsest.errors import UserError, did_you_mean
from palimpsest.home import home
from palimpsest.io.artifacts import COMPARE, EVAL
from palimpsest.io.sealed import read_document
from palimpsest.report.assets import asset, environment
from palimpsest.report.numbers import decimal
from palimpsest.settings.types import Positive, Real, Section

COMPARED = "compare"
"""First part of the place of a value that stands in compare.json; others stand in eval.json."""

SETTINGS = (
    "truth_ratio",
    "rouge",
    "rouge_stemmer",
    "rouge_takes",
    "rouge_by",
    "recall_rouge",
    "count_eos",
    "min_k",
)
"""Keys of ``score`` that change what a value means."""


class Quantity(Section):
    """A published quantity, where ours stands, and how far the two may lie apart."""

    ours: str
    """``block.measure`` of eval.json, or ``compare.measure`` of compare.json."""
    times: Real = 1.0
    """Ours is multiplied by it first."""
    within: Positive | None = None
    """Tolerance: the largest difference."""
    factor: Annotated[float, Field(gt=1)] | None = None
    """Tolerance: the largest ratio, for p-values."""

    @model_validator(mode="after")
    def _one_tolerance(self) -> Self:
        if (self.within is None) == (self.factor is None):
            raise ValueError("one of within (a difference) and factor (a ratio) is needed")
        return self

    def tolerance(self) -> str:
        """In words."""
        return f"within {self.within:g}" if self.within else f"within a factor of {self.factor:g}"

    def agrees(self, theirs: float, ours: float) -> bool:
        """Whether the two lie within the tolerance."""
        if self.within is not None:
            return abs(ours - theirs) <= self.within + 1e-12
        if not (theirs > 0 and ours > 0):
            return theirs == ours
        return abs(math.log(ours / theirs)) <= math.log(self.factor or 1) + 1e-12


class Table(Section):
    """A published table."""

    source: str
    """Paper or page, with the table."""
    differs: str
    """What differs in the setting."""
    measures: dict[str, Quantity]
    """Name there -> where ours stands."""
    rows: dict[str, list[Real | None]]
    """``subject/method`` of ours -> the values, in the order of `measures`."""

    @model_validator(mode="after")
    def _as_wide(self) -> Self:
        for name, values in self.rows.items():
            if len(values) != len(self.measures):
                raise ValueError(f"{name} has {len(values)} values of {len(self.measures)}")
        return self


class Benchmark(Section):
    """The published tables of a benchmark."""

    title: str
    tables: list[Table]


@dataclass(frozen=True)
class Pair:
    """A published value and ours."""

    theirs: float | None
    ours: float | None
    why: str
    """Why there is none of ours, empty if there is one."""
    agrees: bool | None
    """None: there is nothing to compare."""
    low: float | None = None
    high: float | None = None
    """Interval of ours."""


def benchmarks() -> list[str]:
    """Names of the benchmarks with published figures."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_benchmark(name: str) -> Benchmark:
    """Published figures.

    Raises:
        UserError: there are none of this name, or the file is wrong.
    """
    if name not in (known := benchmarks()):
        raise UserError(
            f"no published figures of '{name}'{did_you_mean(name, known)}; there are: "
            f"{', '.join(known)}"
        )
    return Benchmark(**read_yaml(_folder() / f"{name}.yaml"))


def pairs(table: Table, results: Path) -> Iterator[tuple[str, list[Pair]]]:
    """Each row of a published table, beside ours.

    Args:
        table: the table.
        results: folder of our results.

    Raises:
        UserError: a result is damaged.
    """
    for row, values in table.rows.items():
        files = {
            name: read_document(results / row / name)
            for name in (EVAL, COMPARE)
            if (results / row / name).is_file()
        }
        measured = zip(table.measures.values(), values, strict=True)
        yield row, [_pair(quantity, theirs, files) for quantity, theirs in measured]


def _pair(quantity: Quantity, theirs: float | None, files: Mapping[str, Any]) -> Pair:
    head, _, place = quantity.ours.partition(".")
    file, place = (COMPARE, place) if head == COMPARED else (EVAL, quantity.ours)
    if file not in files:
        return Pair(theirs, None, "not measured here", None)
    found = _at(files[file] if file == COMPARE else files[file]["metrics"], place)
    if isinstance(found, Mapping):
        estimate = found
    else:
        estimate = {"value": found, "reason": None if found is not None else "no such value"}
    if estimate["value"] is None:
        return Pair(theirs, None, str(estimate.get("reason") or "no value"), None)
    ours, *ends = (
        quantity.times * one for one in (estimate["value"], *(estimate.get("ci95") or ()))
    )
    agrees = None if theirs is None else quantity.agrees(theirs, ours)
    return Pair(theirs, ours, "", agrees, *(ends or (None, None)))


def settings(table: Table, results: Path) -> list[str]:
    """The settings of ``score`` that our values of a table were made with, each combination once.

    Args:
        table: the table.
        results: folder of our results.

    Raises:
        UserError: a result is damaged.
    """
    found = set()
    for row in table.rows:
        if not (file := results / row / EVAL).is_file():
            continue
        score = _at(read_document(file), "provenance.config.score.score") or {}
        found.add(", ".join(f"{key}: {score[key]}" for key in SETTINGS if key in score))
    return sorted(found - {""})


def _at(table: Any, place: str) -> Any:
    """The value at a dotted place; blocks of further parts have a slash in their name."""
    for key in place.split("."):
        if not isinstance(table, Mapping) or key not in table:
            return None
        table = table[key]
    return table


def lines(benchmark: Benchmark, results: Path) -> Iterator[str]:
    """What was compared, for the terminal."""
    for table in benchmark.tables:
        found = [pair for _, row in pairs(table, results) for pair in row]
        compared = [pair for pair in found if pair.agrees is not None]
        outside = sum(not pair.agrees for pair in compared)
        yield f"{table.source}: {len(compared)} of {len(found)} values measured here"
        if compared:
            yield f"  {len(compared) - outside} within the tolerance, {outside} outside"


def page(benchmark: Benchmark, results: Path) -> str:
    """The page, one HTML document that needs nothing else."""
    tables = [
        {
            "source": table.source,
            "differs": table.differs,
            "settings": settings(table, results),
            "measures": [(name, one.tolerance()) for name, one in table.measures.items()],
            "rows": [(name, list(map(_shown, row))) for name, row in pairs(table, results)],
        }
        for table in benchmark.tables
    ]
    template = environment().get_template("published.html.j2")
    return template.render(title=benchmark.title, tables=tables, style=asset("style.css"))


def _shown(pair: Pair) -> dict[str, str]:
    outcome = {None: "", True: "within", False: "outside"}[pair.agrees]
    ends = ""
    if pair.low is not None and pair.high is not None:
        ends = f"{decimal(pair.low)} to {decimal(pair.high)}"
    return {
        "theirs": "not published" if pair.theirs is None else decimal(pair.theirs),
        "ours": pair.why if pair.ours is None else decimal(pair.ours),
        "interval": ends,
        "outcome": outcome,
    }


def _folder() -> Path:
    return home() / "resources" / "published"
