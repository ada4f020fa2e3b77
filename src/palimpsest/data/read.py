"""Raw rows of csv, json, jsonl, parquet and txt files, plain or packed with gzip or xz.

A byte-order mark and CRLF line ends are accepted; blank lines are skipped. Faulty single rows go to
`Faults` (refused or dropped); a file that is damaged as a whole is always refused.

A file may be nested: its only row holds lists of rows by name (``{"train": [...], "val": [...]}``).
The lists are then its subsets, and their elements its rows.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.data.faults import Faults
from palimpsest.errors import UserError, did_you_mean


@dataclass(frozen=True)
class RawRow:
    """A row of a file, unchanged."""

    index: int
    """0-based number of the row in the file, header and blank lines not counted."""
    where: str
    """The place as a person would count, from 1: ``line 3`` (text), ``row 3``, ``train row 3``."""
    fields: dict[str, Any]
    subset: str | None = None
    """Name of its list in a nested file."""


def read_rows(path: Path, faults: Faults) -> list[RawRow]:
    """Read all rows of a file; its kind follows from its name.

    Raises:
        UserError: unknown kind, empty or damaged file; with ``refuse`` also the first faulty row.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        rows = list(_parquet(path))
    else:
        packed = name.endswith((".gz", ".xz"))
        reader = _READERS.get(Path(name[:-3] if packed else name).suffix)
        if reader is None:
            raise UserError(
                f"{path}: unknown kind of file; valid: {', '.join(_READERS)} "
                "(also with .gz or .xz), .parquet"
            )
        rows = list(reader(path.name, _text(path), faults))
    if len(rows) == 1 and _is_nested(rows[0].fields):
        rows = list(_unnested(path.name, rows[0].fields, faults))
    if not rows and not faults.dropped:
        raise UserError(f"{path}: the file has no rows")
    return [row for row in rows if _clean(path.name, row, faults)]


def require_columns(
    path: Path, rows: Sequence[RawRow], columns: Sequence[str], advice: str = ""
) -> None:
    """Check that each column occurs in the file; of ``messages.0.content``, its first word.

    Args:
        path: the file.
        rows: its rows.
        columns: their names.
        advice: what to do about one that does not, for the message.

    Raises:
        UserError: one does not; the message lists those that do.
    """
    names = {name: None for row in rows for name in row.fields}
    for column in columns:
        if names and column not in names and column.split(".")[0] not in names:
            close = did_you_mean(column, names).partition(" valid: ")
            raise UserError(
                f"{path.name}: no column '{column}'{close[0]} the file has: {close[2]}{advice}"
            )


def _text(path: Path) -> str:
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as handle:
            data: bytes = handle.read()
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: the packed file is truncated or damaged ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    # The mark of UTF-32 begins with that of UTF-16.
    for name, marks in (
        ("UTF-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
        ("UTF-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
    ):
        if data.startswith(marks):
            raise UserError(f"{path}: the file is {name}; save it as UTF-8")
    # Bytes that are not UTF-8 become lone surrogates, which `_clean` finds in their row.
    return data.decode("utf-8-sig", errors="surrogateescape")


def _csv(name: str, text: str, faults: Faults) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    index = -1
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None or "unexpected end" in str(error):
                # An open quote swallows the rest of the file: no row can be read from it.
                raise UserError(f"{name}, line {line}: malformed csv ({error})") from None
            index += 1
            faults.report(name, f"line {line}", f"malformed csv ({error})")
            continue
        if not cells:
            continue
        if header is None:
            header = _header(name, cells)
            continue
        index += 1
        if len(cells) != len(header):
            reason = f"{len(cells)} fields where the header has {len(header)}"
            faults.report(name, f"line {line}", reason)
            continue
        yield RawRow(index, f"line {line}", dict(zip(header, cells, strict=True)))


def _header(name: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if twice := sorted({c for c in header if header.count(c) > 1}):
        raise UserError(f"{name}, line 1: the column '{twice[0]}' occurs twice")
    return header


def _jsonl(name: str, text: str, faults: Faults) -> Iterator[RawRow]:
    index = -1
    # Only \n ends a line: str.splitlines would also split at characters that JSON allows in text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        index += 1
        where = f"line {number}"
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            faults.report(name, where, f"malformed JSON ({error})")
            continue
        if isinstance(value, dict):
            yield RawRow(index, where, value)
        else:
            faults.report(name, where, f"a JSON object is needed, this is {_kind(value)}")


def _json(name: str, text: str, faults: Faults) -> Iterator[RawRow]:
    if not text.strip():
        return
    try:
        values = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            # Many files called .json hold one object per line.
            yield from _jsonl(name, text, faults)
            return
        raise UserError(
            f"{name}, line {error.lineno}, column {error.colno}: malformed JSON ({error.msg})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: malformed JSON ({error})") from None
    if isinstance(values, dict):
        if lists := dict(_lists(values)):
            values = [lists]
        elif not any(isinstance(v, dict) or _is_other_list(v) for v in values.values()):
            values = [values]
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        values = [{"text": value} for value in values]
    if not isinstance(values, list):
        raise UserError(f"{name}: a list of objects is needed, this is {_kind(values)}")
    for index, value in enumerate(values):
        if isinstance(value, dict):
            yield RawRow(index, f"row {index + 1}", value)
        else:
            reason = f"a JSON object is needed, this is {_kind(value)}"
            faults.report(name, f"row {index + 1}", reason)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice:.60}' stands twice in one object")
    return found


def _lists(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The lists of objects in nested tables, with their dotted names; other facts are no rows."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _lists(value, f"{prefix}{name}.")
        elif isinstance(value, list) and _holds_rows(value):
            yield f"{prefix}{name}", value


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        names = table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path}: the column '{twice[0]}' occurs twice")
        values = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # Python has no dates beyond the year 9999.
        raise UserError(f"{path}: cannot be read as parquet ({error})") from error
    for index, value in enumerate(values):
        yield RawRow(index, f"row {index + 1}", value)


def _txt(name: str, text: str, faults: Faults) -> Iterator[RawRow]:
    """Paragraphs, as rows with the column ``text``; with their line breaks.

    Raises:
        UserError: the file holds JSON, whose syntax would be part of every text.
    """
    _refuse_json(name, text.lstrip().partition("\n")[0])
    lines = [line.rstrip() for line in text.split("\n")]
    starts = [i for i, line in enumerate(lines) if line and (i == 0 or not lines[i - 1])]
    for index, start in enumerate(starts):
        end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
        yield RawRow(index, f"line {start + 1}", {"text": "\n".join(lines[start:end])})


def _refuse_json(name: str, line: str) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(line), dict):
            raise UserError(
                f"{name}: its first line is a JSON object, so it is no file of plain texts; call "
                "it .jsonl"
            )


def _is_nested(fields: dict[str, Any]) -> bool:
    lists = [value for value in fields.values() if isinstance(value, list)]
    return len(lists) == len(fields) and any(map(_holds_rows, lists))


def _holds_rows(values: list[Any]) -> bool:
    """Whether a list holds objects that are rows; the messages of a chat are one row together."""
    objects = [value for value in values if isinstance(value, dict)]
    return bool(objects) and not all(is_message(value) for value in objects)


def _is_other_list(value: Any) -> bool:
    return isinstance(value, list) and not (value and all(map(is_message, value)))


def is_message(value: Any) -> bool:
    """Whether a value is a message of a chat, see `MESSAGE`."""
    return isinstance(value, dict) and any(pair <= value.keys() for pair in MESSAGE)


def _unnested(name: str, subsets: dict[str, list[Any]], faults: Faults) -> Iterator[RawRow]:
    index = -1
    for subset, rows in subsets.items():
        for number, value in enumerate(rows, 1):
            index += 1
            where = f"{subset} row {number}"
            if isinstance(value, dict):
                yield RawRow(index, where, value, subset)
            else:
                faults.report(name, where, f"a JSON object is needed, this is {_kind(value)}")


_READERS: dict[str, Callable[[str, str, Faults], Iterator[RawRow]]] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".txt": _txt,
}


MESSAGE = ({"role", "content"}, {"from", "value"})
"""Keys of a message of a chat, in the two forms that are common."""

KINDS = (".parquet", *(kind + packed for kind in _READERS for packed in ("", ".gz", ".xz")))
"""Endings of the names of readable files."""


def _clean(name: str, row: RawRow, faults: Faults) -> bool:
    for column, value in row.fields.items():
        for text in _strings(value):
            if "\0" in text:
                faults.report(name, row.where, f"column '{column}' holds a NUL byte")
                return False
            if any("\ud800" <= c <= "\udfff" for c in text):
                faults.report(name, row.where, f"column '{column}' is not valid UTF-8")
                return False
    return True


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), f"{type(value).__name__} {value!r:.40}")
