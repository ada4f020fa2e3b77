"""How a measure is declared: a row's value, a block's value, and their texts.

The declarations themselves are in `palimpsest.metrics.measures`, one file per kind. From them
follow the columns of rows.parquet, the blocks of eval.json, the differences of compare.json, the
report's columns, the JSON schema of eval.json and the tables of docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.metrics.asked import ANSWERED, why_absent
from palimpsest.metrics.estimates import Estimate, Settings, mean, missing
from palimpsest.metrics.intervals import SHARE

PARTS = ANSWERED
"""Blocks that measure a part of the data."""
HARM, KNOWUNDO, PRIVACY, UTILITY, TEXT = "harm", "knowundo", "privacy", "utility", "text"
"""Blocks that measure several parts together."""
WRAPPED, SAMPLED = "forget_wrapped", "forget_sampled"
"""Blocks of further answers, where the config has them: one per wrapper; one for all draws."""
FURTHER = "further"
"""Further parts (``evaluate.further``): block -> the measures of its kind."""

Columns = Mapping[str, np.ndarray]
"""Per-row values of one block: name -> [seeds, rows], NaN where a row has none."""


@dataclass(frozen=True)
class Scored:
    """The values from which a block's value is computed."""

    parts: Mapping[str, Columns]
    """Block -> its columns."""
    answers: Mapping[str, Sequence[Sequence[str]]]
    """Block -> the answers of each seed."""
    groups: Mapping[str, np.ndarray]
    """Block -> the label of each row's group, see `palimpsest.metrics.parts.independent`."""
    settings: Settings
    """Config section ``score``."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """How well the judge tells labelled answers: ``auc``, ``ci95``, ``n``; empty: not known."""
    requests: Sequence[str] = ()
    """Blocks of earlier requests, which count together with ``forget``."""

    def only(self, block: str) -> Scored:
        """The same of one block alone."""
        parts, answers = {block: self.parts[block]}, {block: self.answers[block]}
        return replace(self, parts=parts, answers=answers, groups={block: self.groups[block]})


@dataclass(frozen=True)
class Column:
    """A column of rows.parquet."""

    name: str
    of: type
    """Class of its input: `palimpsest.metrics.teacher_forced.Reading` (likelihoods of a part) or
    `palimpsest.metrics.answers.Answers` (free answers)."""
    each: Callable[[Any], Sequence[Any] | np.ndarray | None]
    """One value per row, None or NaN where a row has none; None: no such column this time."""
    type: pa.DataType = field(default_factory=pa.float64)
    blocks: tuple[str, ...] = ()
    """Blocks whose rows have it; empty: all."""
    lacks: str = ""
    """Text of ``reason`` in rows.parquet for a row without a value."""
    difference: str = ""
    """Name of its difference to ``original`` in compare.json; empty: there is none."""
    says: str = ""
    """The formula, for docs/metrics.md; empty for a measure's column (the measure has it)."""
    source: str = ""
    """Where it comes from, with the number in the list of docs/metrics.md."""


@dataclass(frozen=True)
class Shown:
    """A column of the report's methods table."""

    block: str
    """Block of eval.json that it shows, or of compare.json, see `difference`."""
    key: str = ""
    """Name in the report's csv and parquet files; empty: block and measure."""
    label: str = ""
    """Head of the column; empty: the measure's."""
    says: str = ""
    """One or two plain sentences; empty: the measure's."""
    group: str = ""
    """Head above several columns; empty: by the block."""
    first: bool = False
    """Stands in the first table; else in the second, which has the details."""
    optional: bool = True
    """Shown only where a method of the subject has a value."""
    difference: bool = False
    """Shows the change against ``original``, from compare.json."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of eval.json.

    Most have a `column` and reduce it to one number. A measure of several columns or blocks has
    `compute` instead.
    """

    name: str
    """Key in its blocks."""
    says: str
    """The formula of a row's value (or of the block's), for docs/metrics.md."""
    blocks: tuple[str, ...] = PARTS
    """Blocks of eval.json that have it."""
    column: Column | None = None
    reduce: Callable[..., Estimate] = mean
    """Takes the column's values [seeds, rows] and their groups, returns the block's: `mean` or
    `rate`."""
    compute: Callable[[Scored, str], Estimate] | None = None
    """The estimate of a block, by name; instead of `reduce`."""
    part: str = ""
    """The part whose rows count, where the block is none."""
    why: str = ""
    """Why the value is null if no row has one."""
    share: bool = True
    """Between 0 and 1, and shown per cent."""
    always: bool = True
    """False: the block lacks it where the config leaves the column out."""
    forget: str = ""
    """Good direction where something is to be forgotten: ``down``, ``up``, ``towards 0.5`` ..."""
    retain: str = ""
    """Good direction where something is to be kept."""
    label: str = ""
    """Head of its columns in the report."""
    of_part: str = "mean over rows"
    """How rows become the block's value, for docs/metrics.md."""
    source: str = ""
    """Where it comes from, with the number in the list of docs/metrics.md."""
    shown: tuple[Shown, ...] = ()
    """Its columns in the report."""

    def estimate(self, scored: Scored, block: str) -> Estimate | None:
        """The value in `block` of eval.json; None where the block lacks the measure."""
        part = self.part or block
        if part in PARTS and part not in scored.parts:
            return missing(why_absent(part)) if self.always else None
        if self.compute is not None:
            return self.compute(scored, block)
        if self.column is None or self.column.name not in scored.parts[part]:
            return missing(f"not measured of {part}") if self.always else None
        values, groups = scored.parts[part][self.column.name], scored.groups[part]
        return self.reduce(values, groups, scored.settings, self.why, SHARE if self.share else None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A key of compare.json."""

    name: str
    says: str
    """The formula, for docs/metrics.md."""
    compute: Callable[..., Any]
    """Takes the rows of the method, of ``original`` and of ``retrained`` (None where it is not
    compared with) as data frames, and the settings ``score``."""
    forget: str = ""
    retain: str = ""
    label: str = ""
    form: str = "share"
    """How the report writes it: ``share``, ``number`` or ``signed``."""
    value: str = "value"
    """Key of the value within the entry."""
    source: str = ""
    shown: tuple[Shown, ...] = ()
