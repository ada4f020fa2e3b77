"""From a data set's configuration and files to its parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.data.adapters import ADAPTERS
from palimpsest.data.adapters.text import TextPart
from palimpsest.data.columns import check_columns
from palimpsest.data.facts import join_facts
from palimpsest.data.faults import Faults, LeftOut, RowFault
from palimpsest.data.keys import complete_keys
from palimpsest.data.read import RawRow, read_rows, require_columns
from palimpsest.data.records import Record
from palimpsest.data.rows import Row, phrase, to_table
from palimpsest.data.split import draw, normalised, split_groups
from palimpsest.errors import UserError, did_you_mean
from palimpsest.settings.dataset import DatasetSettings, Part, as_text, wanted_values

_RUNS_ON = re.compile(r"\n\s*\n[^\n]{1,60}:$")
"""A heading at the end of an answer: its generator's next one, as in four of TOFU."""


@dataclass(frozen=True)
class Built:
    """A data set, ready to be written."""

    parts: dict[str, pa.Table]
    """Part -> rows in source order, columns `palimpsest.io.schemas.DATASET`."""
    facts: dict[str, Any]
    """Facts for the manifest: format, rows, groups, split, dropped and repaired rows."""


def build(
    name: str, dataset: DatasetSettings, source: Path | Sequence[Path], facts: Path | None = None
) -> Built:
    """Read a data set and divide it into its parts.

    Args:
        name: key of the data set; ids begin with it.
        dataset: its configuration.
        source: the file with the rows, or several files, one after the other.
        facts: the sidecar file, if there is one.

    Raises:
        UserError: the file, a row, the sidecar or the configuration of a part is at fault.
    """
    faults = Faults(dataset.bad_rows)
    sources = [source] if isinstance(source, Path) else source
    rows, records = _read(dataset, sources, faults)
    if facts is not None:
        join_facts(records, facts, faults)
    read = len(records)
    records = draw(records, dataset.max_rows, dataset.split_seed)
    keys = complete_keys(records)
    assigned = split_groups((r.group for r in records), dataset.split, dataset.split_seed)
    _check_subsets(name, dataset, sources[0], rows)
    parts = {
        part: _part(name, part, settings, records, assigned)
        for part, settings in sorted(dataset.parts.items())
    }
    groups = {normalised(r.group) for r in records}
    return Built(
        parts,
        {
            "format": dataset.format,
            "rows": {part: table.num_rows for part, table in parts.items()},
            "read": read,
            "used": len(records),
            "groups": len(groups),
            "split": {
                share: sum(value == share for value in assigned.values()) for share in dataset.split
            },
            "split_seed": dataset.split_seed,
            "keys": dict(Counter(record.key_from for record in records)),
            "keys_example": keys.example,
            "keys_in_question": [{"row": row, "key": key} for row, key in keys.in_question],
            "dropped": faults.dropped,
            "left_out": faults.left_out,
            "repaired": faults.repaired,
            "unread_columns": _unread(dataset, rows),
            "doubled": {part: twice for part, table in parts.items() if (twice := _doubled(table))}
            if dataset.format == "qa"
            else {},
            "run_on": [r.where for r in records if r.response and _RUNS_ON.search(r.response)],
        },
    )


def _doubled(table: pa.Table) -> dict[str, int]:
    columns = (table.column(name).to_pylist() for name in ("prompt", "response"))
    return doubled_rows(list(zip(*columns, strict=True)))


def _read(
    dataset: DatasetSettings, sources: Sequence[Path], faults: Faults
) -> tuple[list[RawRow], list[Record]]:
    rows: list[RawRow] = []
    records: list[Record] = []
    unreadable = 0
    for source in sources:
        # Rows are numbered across all files, since ids contain their numbers.
        first = rows[-1].index + 1 if rows else 0
        left = len(faults.dropped)
        numbered = [replace(row, index=row.index + first) for row in read_rows(source, faults)]
        if schema := getattr(ADAPTERS.get(dataset.adapter), "SCHEMA", None):
            check_columns(source, numbered, schema, dataset.other_columns)
        unreadable += len(faults.dropped) - left
        records += _records(dataset, source, numbered, faults)
        rows += numbered
    count = len(rows) + unreadable
    if dataset.expected_rows not in (None, count):
        names = ", ".join(source.name for source in sources)
        raise UserError(
            f"{names}: {count} rows, and expected_rows is {dataset.expected_rows}: this is another "
            "release of the data, whose numbers cannot be compared; pin the revision, or change "
            "expected_rows"
        )
    if not records:
        left_out = "".join(f", {why}: {n}" for why, n in faults.left_out.items())
        names = ", ".join(source.name for source in sources)
        raise UserError(
            f"{names}: no row is left (dropped: {len(faults.dropped)} of "
            f"{len(rows) + unreadable}{left_out})"
        )
    return rows, records


def _unread(dataset: DatasetSettings, rows: Sequence[RawRow]) -> list[str]:
    """Columns of the file that the adapter does not read."""
    adapter = ADAPTERS.get(dataset.adapter)
    if hasattr(adapter, "SCHEMA"):
        return list(dataset.other_columns)
    columns = adapter.columns(dataset)
    read = {*columns, *(column.split(".")[0] for column in columns)}
    return list(dict.fromkeys(name for row in rows for name in row.fields if name not in read))


def _records(
    dataset: DatasetSettings, source: Path, rows: Sequence[RawRow], faults: Faults
) -> list[Record]:
    reader = ADAPTERS.get(dataset.adapter)
    advice = "; say which is which with columns: {prompt: ..., response: ...}"
    if "columns" not in type(dataset).model_fields:
        advice = f"; the adapter {dataset.adapter} reads those of its schema"
    elif dataset.format == "text":
        advice = "; say which it is with columns: {text: ...}"
    require_columns(source, rows, reader.columns(dataset), advice)
    records: list[Record] = []
    for raw in rows:
        try:
            row_records: list[Record] = list(reader.records(raw, dataset))
        except RowFault as fault:
            faults.report(source.name, raw.where, str(fault))
            continue
        except LeftOut as reason:
            faults.left_out[str(reason)] = faults.left_out.get(str(reason), 0) + 1
            continue
        for record in row_records:
            record.where, record.subset = raw.where, raw.subset
            record.fields = {**raw.fields, **record.fields}
            _group(record, dataset)
            if record.mended:
                was, now = record.mended
                place = {"file": source.name, "row": raw.where}
                faults.repaired.append({**place, "was": was, "is": now})
        records += row_records
    return records


def _group(record: Record, dataset: DatasetSettings) -> None:
    """The group of a record by position or by pattern, where the data set says so."""
    if dataset.group_rows is not None:
        record.group = f"rows {record.source_row // dataset.group_rows}"
    elif dataset.group_pattern is not None:
        found = re.search(dataset.group_pattern, record.group)
        if found is None:
            raise UserError(
                f"group_pattern {dataset.group_pattern!r} finds nothing in the group of "
                f"{record.where}, {record.group!r:.80}"
            )
        record.group = found.group(1 if found.re.groups else 0)


def doubled_rows(rows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Rows of a part that stand there before: ``rows`` (all of it), ``prompts`` (the question)."""
    seen = {"rows": len(rows) - len({(normalised(p), normalised(r)) for p, r in rows})}
    seen["prompts"] = len(rows) - len({normalised(p) for p, _ in rows})
    return {name: count for name, count in seen.items() if count}


def _chosen(at: str, settings: Part, records: Sequence[Record]) -> list[Record]:
    """The records that a part takes by `rows` and `where`.

    Raises:
        UserError: the file has no such column, or no row with such a value.
    """
    if settings.rows is not None:
        first, last = settings.rows
        records = [record for record in records if first <= record.source_row < last]
        if not records:
            raise UserError(f"{at}.rows: no row of the file is from {first} to before {last}")
    for column, value in settings.where.items():
        names = {name: None for record in records for name in record.fields}
        if column not in names:
            raise UserError(f"{at}.where: no column '{column}'{did_you_mean(column, names)}")
        wanted = wanted_values(value)
        present = {as_text(record.fields.get(column)): None for record in records}
        for one in wanted:
            if one not in present:
                raise UserError(
                    f"{at}.where.{column}: no row has the value '{one}'{did_you_mean(one, present)}"
                )
        records = [r for r in records if as_text(r.fields.get(column)) in wanted]
    return list(records)


def _check_subsets(
    name: str, dataset: DatasetSettings, source: Path, rows: Sequence[RawRow]
) -> None:
    valid = dict.fromkeys(raw.subset for raw in rows if raw.subset is not None)
    for part, settings in sorted(dataset.parts.items()):
        if settings.subset is None or settings.subset in valid:
            continue
        why = f"; {source.name} is flat, it has no subsets: leave 'subset' out"
        raise UserError(
            f"datasets.{name}.parts.{part}.subset: no subset '{settings.subset}'"
            + (did_you_mean(settings.subset, valid) if valid else why)
        )


def _part(
    name: str, part: str, settings: Part, records: Sequence[Record], assigned: dict[str, str]
) -> pa.Table:
    at = f"datasets.{name}.parts.{part}"
    records = [r for r in records if settings.subset in (None, r.subset)]
    records = _chosen(at, settings, records) if records else records
    if not records:
        raise UserError(f"{at}: no row of the subset '{settings.subset}' is left; use more rows")
    chosen = [
        record
        for record in records
        if settings.split is None or assigned.get(normalised(record.group)) == settings.split
    ]
    if not chosen:
        raise UserError(
            f"{at}: the share '{settings.split}' of "
            f"{len({normalised(r.group) for r in records})} prompts is no prompt at all; "
            f"raise it in datasets.{name}.split or use more rows"
        )
    rows = [row for record in chosen for row in _phrased(name, at, record, settings)]
    if not rows:
        raise UserError(
            f"{at}: phrasing is '{settings.phrasing}', but no row has one: "
            f"the field '{settings.phrasing}' is missing from the sidecar file "
            f"(datasets.{name}.facts)"
        )
    return to_table(rows)


def _phrased(name: str, at: str, record: Record, settings: Part) -> list[Row]:
    context_words = settings.context_words if isinstance(settings, TextPart) else 0
    try:
        return phrase(name, record, settings.phrasing, settings.prefix, context_words)
    except RowFault as fault:
        raise UserError(f"{at}, {record.where}: {fault}") from None
