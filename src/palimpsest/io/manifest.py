"""Manifests: a small JSON file with the sizes and hashes of the files in its folder.

Rules depend on manifests instead of on gigabyte files. If a file does not match its manifest, an
error names it, and both are moved aside: the same command then rebuilds them.

Files are compared whenever they are read, base weights too. A remembered digest (for a size and
date) would miss damage on the disk. The comparison costs little (`palimpsest.io.digest`): the file
is read anyway, and several files are hashed at once, or a file in the pass that uses it
(`verified_stream`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST, MODEL
from palimpsest.io.canonical import fingerprint
from palimpsest.io.digest import SHA256, XXH3, digests_of, hashing
from palimpsest.io.sealed import damaged, read_document, write_document

_MISSING, _ALTERED = "is missing", "has been altered (its checksum differs)"
_BLOCK = 1 << 20


def write_manifest(
    folder: str | Path,
    files: Iterable[str],
    name: str = MANIFEST,
    digests: Mapping[str, Mapping[str, str]] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``folder/name``: ``{"files": {name: {"bytes", "sha256", "xxh3"}}, **facts}``, sealed.

    Args:
        folder: the folder that holds the files.
        files: names relative to `folder`.
        name: name of the manifest itself.
        digests: hashes of files that were hashed while they were written.
        facts: other facts to record (source, counts, dropped rows).
    """
    folder, hashes = Path(folder), digests or {}
    entries = {
        file: {
            "bytes": (folder / file).stat().st_size,
            **(hashes.get(file) or digests_of(folder / file)),
        }
        for file in sorted(files)
    }
    manifest = {"files": entries, **facts}
    write_document(folder / name, manifest)
    return manifest


def read_manifest(folder: str | Path, name: str = MANIFEST) -> dict[str, Any]:
    """Read ``folder/name``.

    Raises:
        UserError: it is missing; or it is damaged, and was moved aside.
    """
    path = Path(folder) / name
    manifest = read_document(path)
    if not isinstance(manifest.get("files"), dict):
        raise damaged(path, "has no table of files")
    return manifest


def weights_of(model: Path) -> str:
    """A hash of a model's base and files: equal for two models that are the same.

    Args:
        model: folder of ``model.json``.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    manifest = read_manifest(model, MODEL)
    return fingerprint({"base": manifest.get("base_manifest"), "files": manifest["files"]})


def verified(folder: str | Path, file: str, name: str = MANIFEST) -> Path:
    """Return the path of `file` after comparing it with the folder's manifest `name`.

    Raises:
        UserError: the file is missing, truncated or altered; it is then moved aside.
    """
    folder = Path(folder)
    if fault := _fault(folder / file, _entry(folder, file, name)):
        raise damaged(folder / file, fault, folder / name)
    return folder / file


@contextlib.contextmanager
def verified_stream(
    folder: str | Path, file: str, name: str = MANIFEST
) -> Iterator[Callable[[int], bytearray]]:
    """Yield a function that reads the next N bytes of `file` (fewer at its end).

    The end of the context compares the bytes with the folder's manifest `name`: before that, no
    file that is made from them may get its final name.

    Raises:
        UserError: as `verified`, or the file cannot be read; if the bytes differ, this error
            replaces any error that they caused.
    """
    folder = Path(folder)
    path, entry = folder / file, _entry(folder, file, name)
    if fault := _size_fault(path, entry):
        raise damaged(path, fault, folder / name)
    kind = _kind(entry)
    with _readable(path), open(path, "rb") as handle, hashing(kind) as digest:

        def read(count: int) -> bytearray:
            block = bytearray(min(count, entry["bytes"] - handle.tell()))
            del block[handle.readinto(block) :]
            digest.update(block)
            return block

        def compare() -> None:
            while read(_BLOCK):
                pass
            if digest.hexdigests()[kind] != entry[kind]:
                raise damaged(path, _ALTERED, folder / name)

        try:
            yield read
        except Exception:
            compare()
            raise
        compare()


def verified_folder(folder: str | Path, weights: bool = True) -> Path:
    """Return `folder` after comparing every file of its manifest.

    Args:
        folder: a base model's folder.
        weights: False skips the large files, for callers that need only the tokenizer.

    Raises:
        UserError: a file is missing, truncated or altered; it is then moved aside.
    """
    folder = Path(folder)
    files = read_manifest(folder)["files"]
    if not weights:
        files = {file: e for file, e in files.items() if not file.endswith(".safetensors")}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        faults = pool.map(_fault, [folder / file for file in files], files.values())
        for file, fault in zip(files, faults, strict=True):
            if fault:
                raise damaged(folder / file, fault, folder / MANIFEST)
    return folder


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    # A caller that writes at the same time would take the error for one of writing.
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _entry(folder: Path, file: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] | None = read_manifest(folder, name)["files"].get(file)
    if entry is None:
        raise UserError(f"{folder / name} does not list {file}")
    return entry


def _fault(path: Path, entry: dict[str, Any]) -> str | None:
    """The fault of a file; None if there is none."""
    try:
        if fault := _size_fault(path, entry):
            return fault
        kind = _kind(entry)
        return None if digests_of(path, kind)[kind] == entry[kind] else _ALTERED
    except FileNotFoundError:
        return _MISSING


def _kind(entry: dict[str, Any]) -> str:
    """The hash that a file is compared by; manifests of earlier versions have sha256 alone."""
    return XXH3 if XXH3 in entry else SHA256


def _size_fault(path: Path, entry: dict[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return _MISSING
    return None if size == entry["bytes"] else f"has {size} bytes instead of {entry['bytes']}"
