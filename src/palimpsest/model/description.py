"""``model.json``: describes any model, relative to its base; and the parts of one that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.artifacts import ADAPTER_WEIGHTS, DELTA_WEIGHTS, MANIFEST, MODEL
from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import BEFORE, mark
from palimpsest.model.adapter import FILES, Update, read_adapter, write_adapter
from palimpsest.model.delta import read_deltas


def write_model(
    folder: Path,
    base: Path,
    updates: dict[str, Update],
    deltas: Callable[[Path], dict[str, str]] | None = None,
    files: tuple[str, ...] = (),
    hazardous: Sequence[str] = (),
    **facts: Any,
) -> None:
    """Describe a model as its base plus a low-rank update, differences of tensors, both or neither.

    Args:
        folder: where to write; files of an earlier model are deleted.
        base: ``resources/models/<base>``.
        updates: module -> low-rank update.
        deltas: writes the differences of base tensors into a folder and returns the file's hashes.
        files: further files in `folder` that belong to the model.
        hazardous: what it is, or what whole tensors of its files give back
            (`palimpsest.io.private`); the folder is private and marked then.
        facts: anything else worth recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark(folder, hazardous)
    for file in (*FILES, DELTA_WEIGHTS):
        (folder / file).unlink(missing_ok=True)
    if updates:
        write_adapter(folder, updates, base)
    digests = {DELTA_WEIGHTS: deltas(folder)} if deltas else {}
    kinds = [name for name, part in (("adapter", updates), ("delta", deltas)) if part]
    write_manifest(
        folder,
        [*(FILES if updates else ()), *((DELTA_WEIGHTS,) if deltas else ()), *files],
        name=MODEL,
        digests=digests,
        kind="+".join(kinds) or "base",
        base_manifest=sha256_of(base / MANIFEST),
        **({"hazardous": list(hazardous)} if hazardous else {}),
        **facts,
    )


def hazards_in(folder: Path) -> list[str]:
    """What a model is, or can be taken out of its files: names of `palimpsest.io.private`.

    Raises:
        UserError: its manifest is missing or damaged.
    """
    return list(read_manifest(folder, manifest_of(folder)).get("hazardous", []))


def is_before(model: Path) -> bool:
    """Whether a model is the one before unlearning.

    Besides `original` it is what a task vector leaves that was subtracted 0 times.

    Args:
        model: folder of ``model.json``.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    manifest = read_manifest(model, MODEL)
    unchanged = manifest.get("scale") == 0 and BEFORE in manifest.get("hazardous", [])
    return unchanged or bool(manifest.get("before_unlearning"))


def manifest_of(folder: Path) -> str:
    """Name of the file that lists the parts: ``model.json``, or ``manifest.json`` of an adapter."""
    return MODEL if (folder / MODEL).exists() else MANIFEST


def updates_in(folder: Path) -> dict[str, Update]:
    """The low-rank update of a subject or of any model; empty if it has none.

    Raises:
        UserError: a file is missing or altered.
    """
    manifest = manifest_of(folder)
    listed = ADAPTER_WEIGHTS in read_manifest(folder, manifest)["files"]
    return read_adapter(folder, manifest) if listed else {}


def deltas_in(folder: Path) -> dict[str, Tensor]:
    """The differences of base tensors of a subject or of any model; empty if it has none.

    Raises:
        UserError: the file is missing or altered.
    """
    manifest = manifest_of(folder)
    listed = DELTA_WEIGHTS in read_manifest(folder, manifest)["files"]
    return read_deltas(folder, manifest) if listed else {}


def check_base(folder: Path, base: Path) -> None:
    """Compare the base that a model was made from with the one that is there.

    Raises:
        UserError: it is another one.
    """
    made_from = read_manifest(folder, manifest_of(folder)).get("base_manifest")
    # The manifest of a subject's adapter does not say.
    if made_from and made_from != sha256_of(base / MANIFEST):
        raise UserError(
            f"{folder / MODEL} was made from another version of {base}; delete {folder}"
        )
