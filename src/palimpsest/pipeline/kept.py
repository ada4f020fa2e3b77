"""Slices travel to their jobs through files that are named by their content.

A command line holds 128 kB, and Snakemake prints it when a job fails. So a rule passes ``@file``,
whose name changes with the slice and with nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from palimpsest.errors import UserError

FOLDER = Path(".snakemake/palimpsest/slices")

MARK = "@"
"""Begins the name of a file in the place of a text."""


def keep(text: str) -> str:
    """Write `text` into its file, unless that is there, and return ``@file``.

    A plan works in a folder that cannot be written, too: there the job says what is missing.
    """
    data = text.encode()
    path = FOLDER / f"{_name(data)}.json"
    with contextlib.suppress(OSError):
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
    return f"{MARK}{path}"


def kept(text: str) -> str:
    """`text`, or what stands in the file that ``@file`` names.

    Raises:
        UserError: the file is not there, or has been altered.
    """
    if not text.startswith(MARK):
        return text
    path = Path(text.removeprefix(MARK))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the settings of this job, {path}: {error.strerror}; run the same "
            "snakemake command again, which writes them"
        ) from None
    if path.parent == FOLDER and path.stem != _name(data):
        path.unlink(missing_ok=True)
        raise UserError(f"{path} has been altered; run the same snakemake command again")
    return data.decode()


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
