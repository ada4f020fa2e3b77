"""Seals: the sha256 that an artifact carries of itself, so that damage shows where it is read.

The digest is taken with zeros in its own place, as in the headers of tar. So a JSON document or a
table is one file: no sidecar can be lost or belong to another version. What cannot carry a seal
(weights, logs) stands in a manifest, and that is sealed.
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
"""What is written first; `seal` puts the digest in place of the zeros."""


def seal(data: bytes) -> bytes:
    """Put the digest of `data` into it, in place of the zeros of its last `BLANK`."""
    place = data.rindex(BLANK.encode()) + len(_MARK)
    return data[:place] + _digest(data) + data[place + len(_ZEROS) :]


def is_sealed(data: bytes) -> bool:
    """Whether there is a seal; none: somebody wrote the file by hand, or an earlier version did."""
    return _MARK.encode() in data


def is_intact(data: bytes) -> bool:
    """Whether `data` is what was sealed; without a seal it is taken as it is."""
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
        UserError: it is missing; or it was truncated or altered, and was moved aside.
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
    """The error about an artifact that is not there."""
    return UserError(f"{path} is missing: build it with `snakemake {path} --cores all`")


def damaged(path: Path, fault: str, *companions: Path) -> UserError:
    """Move a damaged artifact aside; with it `companions` that are worth nothing without it.

    Snakemake then finds an output missing and builds it again. What was damaged keeps its place
    as ``<name>.damaged-<n>``.

    Returns:
        The error to raise: what is wrong with which file, and what to do.
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
