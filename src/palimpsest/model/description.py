"""``model.json``: one description for every model that is measured, always relative to its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import NAME, write_manifest
from palimpsest.model.adapter import FILES, Update, write_adapter

MODEL = "model.json"


def write_model(folder: Path, base: Path, updates: dict[str, Update], **facts: Any) -> None:
    """Describe a model as its base plus a low-rank update (none: the base itself)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        (folder / file).unlink(missing_ok=True)
    if updates:
        write_adapter(folder, updates, str(base))
    write_manifest(
        folder,
        FILES if updates else [],
        name=MODEL,
        kind="adapter" if updates else "base",
        base_manifest=sha256_of(base / NAME),
        **facts,
    )
