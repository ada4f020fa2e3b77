"""``model.json``: one description for every model that is measured, always relative to its base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from palimpsest.io.artifacts import DELTA_WEIGHTS, MANIFEST, MODEL
from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import FILES, Update, write_adapter


def write_model(
    folder: Path,
    base: Path,
    updates: dict[str, Update],
    deltas: Callable[[Path], dict[str, str]] | None = None,
    files: tuple[str, ...] = (),
    **facts: Any,
) -> None:
    """Describe a model as its base plus a low-rank update, differences of tensors, both or neither.

    Args:
        folder: where to write; files of an earlier model in it are removed.
        base: ``resources/models/<base>``.
        updates: module -> low-rank update.
        deltas: writes the differences of the base's tensors into a folder, gives the file's hashes.
        files: further files in `folder` that belong to the model.
        facts: anything else worth recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*FILES, DELTA_WEIGHTS):
        (folder / file).unlink(missing_ok=True)
    if updates:
        write_adapter(folder, updates, str(base))
    digests = {DELTA_WEIGHTS: deltas(folder)} if deltas else {}
    kinds = [name for name, part in (("adapter", updates), ("delta", deltas)) if part]
    write_manifest(
        folder,
        [*(FILES if updates else ()), *((DELTA_WEIGHTS,) if deltas else ()), *files],
        name=MODEL,
        digests=digests,
        kind="+".join(kinds) or "base",
        base_manifest=sha256_of(base / MANIFEST),
        **facts,
    )
