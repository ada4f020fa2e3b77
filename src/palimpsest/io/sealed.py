"""Seals: an artifact holds its own sha256, so that a reader finds damage.

The digest is computed with zeros in its own place, as in the headers of tar. So a JSON document or
a table is one file: no sidecar can be lost or belong to another version. Files that cannot hold a
seal (weights, logs) are listed in a manifest, which is sealed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.atomic import write_text

SEAL = "seal"
"""Key of a sealed JSON document."""

_MARK = "palimpsest-sha256:"
_ZEROS = "0" * 64
BLANK = _MARK + _ZEROS
"""The seal before `seal` replaces the zeros by the digest."""


def seal(data: bytes) -> bytes:
    """Return `data` with its digest in place of the zeros of its last `BLANK`."""
    place = data.rindex(BLANK.encode()) + len(_MARK)
    return data[:place] + _digest(data) + data[place + len(_ZEROS) :]


def is_sealed(data: bytes) -> bool:
    """Whether there is a seal; a file that was written by hand has none."""
    return _MARK.encode() in data


def is_intact(data: bytes) -> bool:
    """Whether `data` matches its seal; true without a seal."""
    if not is_sealed(data):
        return True
    place = data.rfind(_MARK.encode())
    place += len(_MARK)
    end = place + len(_ZEROS)
    return data[place:end] == _digest(data[:place] + _ZEROS.encode() + data[end:])


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def write_document(path: str | Path, value: dict[str, Any]) -> None:
    """Write `value` as sealed JSON with sorted keys, atomically; NaN is refused (ValueError)."""
    text = json.dumps({**value, SEAL: BLANK}, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_text(path, seal(text.encode()).decode())


def read_sealed(path: Path) -> bytes:
    """Read a file and compare it with its seal, if it has one.

    Raises:
        UserError: it is missing; or it was altered, and was moved aside.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise missing(path) from None
    if not is_intact(data):
        raise damaged(path, ALTERED)
    return data


def read_document(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, without its seal.

    Raises:
        UserError: the file is missing; or it is truncated or altered, and was moved aside.
    """
    path = Path(path)
    data = read_sealed(path)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise damaged(path, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise damaged(path, "does not hold a JSON object")
    if value.pop(SEAL, None) and not is_sealed(data):
        raise damaged(path, ALTERED)
    return value


ALTERED = "has been altered (sha256 differs)"


def missing(path: Path) -> UserError:
    """The error about a missing artifact."""
    return UserError(f"{path} is missing: build it with `snakemake {path} --cores all`")


def damaged(path: Path, fault: str, *companions: Path) -> UserError:
    """Move a damaged artifact aside, with `companions` that are useless without it.

    Snakemake then finds an output missing and builds it again. The damaged file stays in its folder
    as ``<name>.damaged-<n>``.

    Returns:
        The error to raise: the file, its fault, and what to do.
    """
    try:
        moved = [aside for file in (path, *companions) if (aside := _move_aside(file))]
    except OSError as error:
        return UserError(
            f"{path} {fault}; it cannot be moved aside ({error.strerror}): delete it and run the "
            "same command again"
        )
    names = " and ".join(aside.name for aside in moved)
    what = f"moved aside as {names}: " if names else ""
    return UserError(f"{path} {fault}; {what}run the same command again to rebuild it")


def _move_aside(path: Path) -> Path | None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # Another job may have found the same damage and moved the file.
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        return aside
    return None
