"""Folders that only their owner may read, and the note in them that says why."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from palimpsest.io.artifacts import HAZARDOUS
from palimpsest.io.atomic import explained, write_text

BEFORE = "the model before unlearning"
ACQUIRED = "the acquired knowledge"
WRITTEN = "texts of the model before unlearning"
"""What a hazardous folder can hold."""


def make_private(folder: Path) -> None:
    """Create `folder` so that only its owner can read it and its files.

    Files that `palimpsest.io.atomic` writes into it later are private, too.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        for path in folder.iterdir():
            # Another job that writes there may have renamed its file.
            with contextlib.suppress(FileNotFoundError):
                os.chmod(path, 0o700 if path.is_dir() else 0o600)


def mark(folder: Path, holds: Sequence[str], share: str = "") -> None:
    """Make a folder private and say in it what it holds; with nothing hazardous, open it again.

    Args:
        folder: an artifact's.
        holds: any of `BEFORE`, `ACQUIRED`, `WRITTEN`.
        share: a sentence on what to share in its place.
    """
    note = folder / HAZARDOUS
    if holds:
        make_private(folder)
        text = f"HAZARDOUS: this folder holds {' and '.join(holds)}. Do not share it.\n"
        write_text(note, text + (f"{share}\n" if share else ""))
    elif note.exists():
        # Made for an earlier result in this place.
        note.unlink()
        os.chmod(folder, 0o755)
