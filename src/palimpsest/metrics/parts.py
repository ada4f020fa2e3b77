"""The rows that are scored, read from the data sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from palimpsest.data.keys import GIVEN, NONE
from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table
from palimpsest.metrics.asked import draw_ids, sampled_block, wrapped_block
from palimpsest.settings.types import split_ref

Thing = tuple[str, ...]
"""A row, a group or a text: its kind, then its name."""


@dataclass(frozen=True)
class Part:
    """The rows of one evaluated part, sorted by id; all lists are aligned."""

    block: str
    """Key of eval.json: ``forget``, ``retain``, ..."""
    source: str
    """dataset/part."""
    ids: list[str]
    prompts: list[str]
    responses: list[str]
    keys: list[list[str]]
    """Strings that carry the fact; may be empty."""
    key_from: list[str]
    """Where these come from: given, derived or none (`palimpsest.data.keys`)."""
    wrong: list[list[str]]
    """Wrong answers (``perturbed``); may be empty."""
    paraphrased: list[str | None]
    """The right answers in other words; None where the data have none."""
    groups: list[str]
    """The data set's group of each row; after `independent`, a label common to all parts."""

    def texts(self) -> list[str]:
        """Every question and answer of the rows."""
        paraphrased = [text for text in self.paraphrased if text is not None]
        wrong = itertools.chain.from_iterable(self.wrong)
        return [*self.prompts, *self.responses, *paraphrased, *wrong]

    def at(self, places: Sequence[int]) -> Part:
        """The part with the rows at `places` alone."""
        return replace(
            self,
            ids=[self.ids[i] for i in places],
            prompts=[self.prompts[i] for i in places],
            responses=[self.responses[i] for i in places],
            keys=[self.keys[i] for i in places],
            key_from=[self.key_from[i] for i in places],
            wrong=[self.wrong[i] for i in places],
            paraphrased=[self.paraphrased[i] for i in places],
            groups=[self.groups[i] for i in places],
        )

    def draw(self, count: int | None) -> list[int]:
        """Places of the rows that are answered freely, see `palimpsest.metrics.asked.draw_ids`."""
        names = set(draw_ids(self.ids, count))
        return [place for place, name in enumerate(self.ids) if name in names]


def read_part(datasets: Path, block: str, ref: str) -> Part:
    """Read the rows of `ref` (dataset/part), sorted by id.

    Raises:
        UserError: the file is missing, damaged, empty, lacks a column or repeats an id.
    """
    dataset, name = split_ref(ref)
    path = verified(datasets / dataset, table_of(name))
    optional = ("key_from", "perturbed", "paraphrased", "group")
    table = columns_of(path, ("id", "prompt", "response", "key"), optional).sort_by("id")
    ids, keys = table.column("id").to_pylist(), _lists(table, "key")
    if not ids:
        raise UserError(f"{path} has no rows: nothing to evaluate as {block}")
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in itertools.pairwise(ids) if a == b)
        raise UserError(f"{path}: id '{twice}' occurs twice")
    return Part(
        block=block,
        source=ref,
        ids=ids,
        prompts=table.column("prompt").to_pylist(),
        responses=table.column("response").to_pylist(),
        keys=keys,
        key_from=_sources(table, keys),
        wrong=_lists(table, "perturbed"),
        paraphrased=(
            table.column("paraphrased").to_pylist()
            if "paraphrased" in table.column_names
            else [None] * len(ids)
        ),
        groups=table.column("group").to_pylist() if "group" in table.column_names else ids,
    )


def independent(parts: Sequence[Part]) -> list[Part]:
    """The parts, their groups labelled so that rows with different labels are independent.

    Rows of one group of a data set belong together (a fact in several wordings, several answers of
    one prompt, windows of one document), and so do rows whose prompt and response are equal up to
    case and white space. A label is the first of its rows' ids.
    """
    same = _Same()
    for part in parts:
        dataset, _ = split_ref(part.source)
        for name, group, prompt, response in zip(
            part.ids, part.groups, part.prompts, part.responses, strict=True
        ):
            row = ("row", dataset, name)
            same.join(row, ("group", dataset, normalised(group)))
            same.join(row, ("text", normalised(prompt), normalised(response)))
    return [
        replace(part, groups=[same.label(("row", dataset, name)) for name in part.ids])
        for part in parts
        for dataset, _ in [split_ref(part.source)]
    ]


class _Same:
    """Things that belong together (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[Thing, Thing] = {}

    def join(self, one: Thing, other: Thing) -> None:
        """Let two things belong together."""
        roots = {self._root(one), self._root(other)}
        # The label is the id of a row: rows go before groups and texts, the first id before others.
        first = min(roots, key=lambda thing: (thing[0] != "row", thing))
        self._parent |= dict.fromkeys(roots, first)

    def label(self, row: Thing) -> str:
        """The id of the first row that belongs to `row`."""
        return self._root(row)[-1]

    def _root(self, thing: Thing) -> Thing:
        path = []
        while (parent := self._parent.setdefault(thing, thing)) != thing:
            path.append(thing)
            thing = parent
        self._parent |= dict.fromkeys(path, thing)
        return thing


def further(forget: Part, wrappers: Sequence[str], seeds: Sequence[int]) -> list[Part]:
    """Answer-only blocks for the forget rows: one per wrapper, one per sampling seed.

    Args:
        forget: the rows that are answered.
        wrappers: names of ``measure.wrappers``.
        seeds: ``measure.sampling.seeds``.
    """
    names = [*map(wrapped_block, wrappers), *map(sampled_block, seeds)]
    return [replace(forget, block=name) for name in names]


def columns_of(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Columns of a parquet file, of the `optional` ones those that it has.

    Raises:
        UserError: the file is missing or damaged, or lacks one of `columns`.
    """
    table, _ = read_table(path)
    if absent := [name for name in columns if name not in table.column_names]:
        raise UserError(
            f"{path} has no column {', '.join(absent)} (it has: {', '.join(table.column_names)}); "
            "delete it and run the same command again"
        )
    return table.select([*columns, *(name for name in optional if name in table.column_names)])


def _sources(table: pa.Table, keys: Sequence[Sequence[str]]) -> list[str]:
    if "key_from" in table.column_names:
        return list(table.column("key_from").to_pylist())
    return [GIVEN if key else NONE for key in keys]


def _lists(table: pa.Table, name: str) -> list[list[str]]:
    if name not in table.column_names:
        return [[] for _ in range(table.num_rows)]
    return [list(value or []) for value in table.column(name).to_pylist()]
