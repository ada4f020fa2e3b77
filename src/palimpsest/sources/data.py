"""Fetch the files of a data set, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.atomic import sha256_of
from palimpsest.settings.dataset import DatasetSettings
from palimpsest.sources.hub.data import fetch_hub_data
from palimpsest.sources.names import check_sha256, local_file, recorded, split_source
from palimpsest.sources.url import download_url


@dataclass(frozen=True)
class Fetched:
    """The files with a data set's rows."""

    files: list[Path]
    facts: dict[str, Any]
    """Facts about them for the manifest."""


def fetch_data(
    dataset: DatasetSettings, resources: Path, log: Callable[[str], None] = print
) -> Fetched:
    """Find or fetch the files of a data set.

    Args:
        dataset: its configuration, of which source, sha256, revision and files are read.
        resources: the folder of shipped files; it also holds downloads and their records.
        log: receives progress lines.

    Raises:
        UserError: see the module of each kind of source.
    """
    kind, rest = split_source(dataset.source)
    if kind == "hub":
        return _from_hub(rest, dataset, resources / "hub", log)
    if kind == "url":
        if dataset.sha256 is None:
            raise UserError(f"source '{recorded(dataset.source)}': an address needs a sha256")
        path = download_url(rest, dataset.sha256, resources / "downloads", log)
    elif kind in ("resource", "path"):
        path = local_file(dataset.source, dataset.sha256, resources=resources)
    else:
        raise UserError(
            f"source '{dataset.source}': data come from resource:file or path:file, hub:org/name "
            "or url:address"
        )
    return Fetched([path], {"sha256": sha256_of(path)})


def _from_hub(
    name: str, dataset: DatasetSettings, records: Path, log: Callable[[str], None]
) -> Fetched:
    snapshot = fetch_hub_data(name, dataset.files, dataset.revision, records, log)
    files = list(snapshot.files.values())
    if dataset.sha256 is not None:
        if len(files) > 1:
            raise UserError(
                f"source '{dataset.source}': sha256 is for a single file, this means {len(files)}; "
                "write a commit as the revision instead"
            )
        check_sha256(files[0], dataset.sha256)
    hashes = {file: sha256_of(path) for file, path in snapshot.files.items()}
    facts = {"revision": dataset.revision, "commit": snapshot.commit, "read_files": hashes}
    return Fetched(files, facts)
