"""From a data set's configuration and files to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from palimpsest.config.schema import Dataset, Part
from palimpsest.data import pku_saferlhf, qa, truthfulqa
from palimpsest.data.facts import join_facts
from palimpsest.data.faults import Faults, RowFault
from palimpsest.data.read import read_rows, require_columns
from palimpsest.data.records import Record, phrase, to_table
from palimpsest.data.split import draw, normalised, split_groups
from palimpsest.errors import UserError

ADAPTERS: dict[str, ModuleType] = {
    "pku_saferlhf": pku_saferlhf,
    "qa": qa,
    "truthfulqa": truthfulqa,
}
"""Adapter key -> module with ``columns(dataset)`` and ``records(raw, dataset)``."""


@dataclass(frozen=True)
class Built:
    """A data set, ready to be written."""

    parts: dict[str, pa.Table]
    """Part -> rows in source order, columns `palimpsest.data.records.SCHEMA`."""
    facts: dict[str, Any]
    """What the manifest says: rows, groups, split, dropped rows."""


def build(name: str, dataset: Dataset, source: Path, facts: Path | None = None) -> Built:
    """Read a data set and divide it into its parts.

    Args:
        name: key of the data set; ids begin with it.
        dataset: its configuration.
        source: the file with the rows.
        facts: the sidecar file, if there is one.

    Raises:
        UserError: the file, a row, the sidecar or the configuration of a part is at fault.
    """
    faults = Faults(dataset.bad_rows)
    records = _records(dataset, source, faults)
    if facts is not None:
        join_facts(records, facts, faults)
    read = len(records)
    records = draw(records, dataset.max_rows, dataset.split_seed)
    assigned = split_groups((r.group for r in records), dataset.split, dataset.split_seed)
    parts = {
        part: _part(name, part, settings, records, assigned)
        for part, settings in sorted(dataset.parts.items())
    }
    groups = {normalised(r.group) for r in records}
    return Built(
        parts,
        {
            "rows": {part: table.num_rows for part, table in parts.items()},
            "read": read,
            "used": len(records),
            "groups": len(groups),
            "split": {
                share: sum(value == share for value in assigned.values()) for share in dataset.split
            },
            "split_seed": dataset.split_seed,
            "dropped": faults.dropped,
        },
    )


def _records(dataset: Dataset, source: Path, faults: Faults) -> list[Record]:
    adapter = ADAPTERS[dataset.adapter]
    rows = read_rows(source, faults)
    require_columns(source, rows, adapter.columns(dataset))
    records: list[Record] = []
    for raw in rows:
        try:
            records += list(adapter.records(raw, dataset))
        except RowFault as fault:
            faults.report(source.name, raw.where, str(fault))
    if not records:
        selected = f", select: {dataset.select}" if dataset.adapter == "pku_saferlhf" else ""
        raise UserError(
            f"{source.name}: no row is left (dropped: {len(faults.dropped)} of "
            f"{len(rows)}{selected})"
        )
    return records


def _part(
    name: str, part: str, settings: Part, records: Sequence[Record], assigned: dict[str, str]
) -> pa.Table:
    chosen = [
        record
        for record in records
        if settings.split is None or assigned.get(normalised(record.group)) == settings.split
    ]
    if not chosen:
        raise UserError(
            f"datasets.{name}.parts.{part}: the share '{settings.split}' of "
            f"{len({normalised(r.group) for r in records})} prompts is no prompt at all; "
            f"raise it in datasets.{name}.split or use more rows"
        )
    rows = [row for r in chosen if (row := phrase(name, r, settings.phrasing)) is not None]
    if not rows:
        raise UserError(
            f"datasets.{name}.parts.{part}: phrasing is '{settings.phrasing}', but no row has one: "
            f"the field '{settings.phrasing}' is missing from the sidecar file "
            f"(datasets.{name}.facts)"
        )
    return to_table(rows)
