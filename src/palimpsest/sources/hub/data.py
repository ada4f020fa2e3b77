"""A data set repository: the files with its rows. Scripts in it are never run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from palimpsest.data.read import KINDS
from palimpsest.errors import UserError
from palimpsest.sources.hub.fetch import Choose, Snapshot, fetch
from palimpsest.sources.hub.record import RECORDS, Repository


def fetch_hub_data(
    name: str,
    files: Sequence[str],
    revision: str,
    records: Path = RECORDS,
    log: Callable[[str], None] = print,
) -> Snapshot:
    """Fetch the files of a data set.

    Args:
        name: ``org/name``.
        files: names or patterns (``data/*.parquet``); empty: the only file with rows, or else
            those with "train" in their name.
        revision: branch, tag or commit.
        records: see `palimpsest.sources.hub.record`.
        log: receives progress lines.

    Raises:
        UserError: see `palimpsest.sources.hub.fetch.fetch`; or no file matches (the error lists
            the files).
    """
    repository = Repository(name, "dataset", revision)
    return fetch(repository, _chooser(repository, files), records, log)


def _chooser(repository: Repository, files: Sequence[str]) -> Choose:
    def choose(names: Sequence[str]) -> list[str]:
        readable = [name for name in names if name.lower().endswith(KINDS)]
        chosen: list[str] = []
        for pattern in files:
            hits = fnmatch.filter(names, pattern)
            if not hits:
                raise UserError(
                    f"source '{repository}': files: nothing is called '{pattern}'; "
                    f"there are: {_listed(readable)}"
                )
            chosen += hits
        chosen = chosen or _default(readable)
        if not chosen:
            raise UserError(
                f"source '{repository}': files: name those to read; there are: {_listed(readable)}"
            )
        return chosen

    return choose


def _default(readable: Sequence[str]) -> list[str]:
    if len(readable) == 1:
        return list(readable)
    return [name for name in readable if re.search(r"(^|[/_.-])train([/_.-]|$)", name)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if names[12:] else ""
    return (", ".join(names[:12]) or "(none that can be read)") + more
