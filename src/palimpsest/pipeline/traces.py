"""Search what a workflow wrote for the texts of a data set: what a purge has left."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_MADE = ("datasets", "downloads", "hub")
SEARCHED = ("results", "logs", "benchmarks", "tracking", *(f"resources/{name}" for name in _MADE))
"""Folders in which a workflow writes texts. A source is not among them: purge names it as it is."""
WEIGHTS = (".bin", ".pt", ".gguf", ".npy", ".whl")
"""Endings of files that hold no text: what a model still says is another question."""
TENSORS = ".safetensors"
"""Of these the header is searched, which may hold any text."""
LEAST, MOST = 16, 80
"""Characters of a passage: a shorter one stands in other texts, too; of a longer one a part."""
_RUN = re.compile(r"[^\W_][\w ,-]*[^\W_]")


def passages(texts: Iterable[str]) -> list[str]:
    """A passage of each text that is written in the same way in every kind of file, sorted.

    The longest run of words without quotes, slashes and line ends; texts without one of `LEAST`
    characters have none.
    """
    found = set()
    for text in texts:
        runs = [run for run in _RUN.findall(text) if len(run) >= LEAST]
        if runs:
            found.add(max(runs, key=len)[:MOST])
    return sorted(found)


def texts_of(folder: Path) -> list[str]:
    """Prompts and responses of a data set's tables."""
    texts: set[str] = set()
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        for name in ("prompt", "response"):
            if name in table.column_names:
                texts |= {text for text in table[name].to_pylist() if text}
    return sorted(texts)


def traces(sought: Iterable[str], folder: Path = Path()) -> Iterator[tuple[Path, str]]:
    """Files that hold a passage, each with the first one that is found.

    Args:
        sought: what `passages` gave.
        folder: of the workflow.
    """
    wanted = {passage: _written(passage) for passage in sought}
    for top in SEARCHED:
        for path in sorted((folder / top).rglob("*")):
            searched = path.is_file() and path.suffix not in WEIGHTS
            if searched and (found := _first(path, wanted)) is not None:
                yield path, found


def _written(passage: str) -> tuple[bytes, ...]:
    """A passage as it is, also in HTML, for it has no character with a name; as JSON in ASCII."""
    return tuple({passage.encode(), json.dumps(passage)[1:-1].encode()})


def _first(path: Path, wanted: Mapping[str, tuple[bytes, ...]]) -> str | None:
    content = _content(path)
    return next((p for p, ways in wanted.items() if any(way in content for way in ways)), None)


def _content(path: Path) -> bytes:
    if path.suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError):
            return path.read_bytes()  # a damaged file is searched as it is
        columns = (table[name] for name in table.column_names)
        return "\n".join(
            str(column.to_pylist()) for column in columns if _has_text(column)
        ).encode()
    if path.suffix == TENSORS:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # A damaged file may begin with any number.
            return file.read(length) if length <= path.stat().st_size else b""
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                return file.read()
        except (OSError, EOFError):
            return path.read_bytes()
    return path.read_bytes()


def _has_text(column: pa.ChunkedArray) -> bool:
    kind = column.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_struct(kind)
    )
