"""Manifests: a small JSON file that vouches for the files beside it by size and sha256.

Rules depend on manifests instead of on gigabyte files. A file that no longer matches its
manifest is named, moved aside together with the manifest, and refused: the same command then
rebuilds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.atomic import sha256_of, write_json

NAME = "manifest.json"


def write_manifest(
    folder: str | Path, files: Iterable[str], name: str = NAME, **facts: Any
) -> dict[str, Any]:
    """Write ``folder/name``: ``{"files": {name: {"bytes", "sha256"}}, **facts}``.

    Args:
        folder: the folder that holds the files.
        files: names relative to `folder`.
        name: name of the manifest itself.
        facts: anything else worth recording (source, counts, dropped rows).
    """
    folder = Path(folder)
    entries = {
        file: {"bytes": (folder / file).stat().st_size, "sha256": sha256_of(folder / file)}
        for file in sorted(files)
    }
    manifest = {"files": entries, **facts}
    write_json(folder / name, manifest)
    return manifest


def read_manifest(folder: str | Path, name: str = NAME) -> dict[str, Any]:
    """Read ``folder/name``.

    Raises:
        UserError: it is missing or not JSON with a ``files`` table.
    """
    path = Path(folder) / name
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"].items()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: build it with `snakemake {path} --cores all`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        _set_aside(path)
        raise UserError(
            f"{path} was damaged; moved aside as {path.name}.corrupt: "
            "run the same command again to rebuild it"
        ) from None
    return manifest


def verified(folder: str | Path, file: str, name: str = NAME) -> Path:
    """Return the path of `file` after comparing it with the folder's manifest, called `name`.

    Raises:
        UserError: the file is missing, truncated or altered; what is there is moved aside.
    """
    folder = Path(folder)
    entry = read_manifest(folder, name)["files"].get(file)
    path = folder / file
    if entry is None:
        raise UserError(f"{folder / name} does not list {file}")
    if not path.exists():
        fault = "is missing"
    elif path.stat().st_size != entry["bytes"]:
        fault = f"has {path.stat().st_size} bytes instead of {entry['bytes']}"
    elif sha256_of(path) != entry["sha256"]:
        fault = "has been altered (sha256 differs)"
    else:
        return path
    _set_aside(path)
    _set_aside(folder / name)
    raise UserError(
        f"{path} {fault}; it was moved aside with its manifest (.corrupt): "
        "run the same command again to rebuild it"
    )


def _set_aside(path: Path) -> None:
    if path.exists():
        os.replace(path, path.with_name(path.name + ".corrupt"))
