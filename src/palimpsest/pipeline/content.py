"""Files that a configuration names count by their content.

A slice holds their hashes: an edited file runs the stages again that read it, and a new date, a
copy or a fresh clone runs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.home import shipped
from palimpsest.io.artifacts import ADAPTER_CONFIG, MANIFEST, ROWS
from palimpsest.io.canonical import fingerprint
from palimpsest.io.digest import XXH3, digests_of
from palimpsest.io.manifest import read_manifest
from palimpsest.sources.path import taken

MISSING = "missing"
"""Stands for a file that is not there; the stage that needs it says so."""

REMEMBERED = Path(".snakemake/palimpsest/contents.json")
"""Hashes of large files, so that a plan does not read gigabytes: path -> [status, hash]."""

LARGE = 1 << 24
"""Bytes from which on the hash of a file is remembered."""

_SETTLED = 2.0
"""Seconds without a change, after which the date of a file tells the next change."""


def source_hash(source: str | None, made: Path | None = None) -> str | None:
    """Hash of what a ``resource:`` or ``path:`` source names; None of any other source.

    Args:
        source: as in the configuration. Of a model's folder those files count that are taken.
        made: folder of what was made of it, with a manifest. If the source is gone, what was made
            of it stands for it: who deletes a file need not make its results again.
    """
    kind, _, rest = (source or "").partition(":")
    if kind not in ("resource", "path"):
        return None
    path = shipped(rest) if kind == "resource" else Path(rest).expanduser()
    found = path_hash(path)
    if found == MISSING and made is not None and (made / MANIFEST).is_file():
        with contextlib.suppress(UserError):
            return str(read_manifest(made).get("content", MISSING))
    return found


def log_hash(source: str) -> str | None:
    """Hash of an evaluation or a log that a ``path:`` names; of a folder its rows and its logs."""
    path = Path(source.partition(":")[2]).expanduser()
    if not path.is_dir():
        return source_hash(source)
    files = [path / ROWS, *sorted(path.glob("*.json"))]
    return fingerprint({file.name: file_hash(file) for file in files})


def path_hash(path: Path) -> str:
    """Hash of a file, or of a folder's model or adapter; `MISSING` if there is none."""
    try:
        if path.is_dir():
            files = {*taken(path), *path.glob(ADAPTER_CONFIG)}
            return fingerprint({file.name: file_hash(file) for file in files})
        return file_hash(path)
    except OSError:  # not readable, or a name that no file can have: the stage says which
        return MISSING


def file_hash(path: Path) -> str:
    """XXH3 of a file; `MISSING` if it is not there or not readable."""
    try:
        if not path.is_file():
            return MISSING
        real = path.resolve()
        found = real.stat()
        status = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        return _hash(str(real), status)
    except OSError:
        return MISSING


@functools.cache
def _hash(path: str, status: tuple[int, ...]) -> str:
    large = status[0] >= LARGE
    if large and (known := _remembered().get(path)) and known[0] == list(status):
        return str(known[1])
    digest = digests_of(path, XXH3)[XXH3]
    if large and time.time() - status[2] / 1e9 > _SETTLED:
        _remember(path, [list(status), digest])
    return digest


def _remembered() -> dict[str, Any]:
    try:
        table = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _remember(path: str, entry: list[Any]) -> None:
    # Only time would be lost without the note: a folder may be read-only.
    temporary = REMEMBERED.with_name(f".{REMEMBERED.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_remembered(), path: entry}), encoding="utf-8")
        temporary.replace(REMEMBERED)
