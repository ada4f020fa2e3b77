"""Records of repositories: the commit and the files of the first download.

A branch moves. Snakemake deletes a manifest before it builds it anew, so a file outside the
artifacts records the commit of a branch, and every later stage uses that commit.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from palimpsest.errors import UserError
from palimpsest.io.atomic import write_json

RECORDS = Path("resources/hub")
"""Folder of the records."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RepoFile:
    """A file as the hub describes it."""

    size: int | None = None
    sha256: str | None = None
    """Of a large file (LFS)."""
    blob: str | None = None
    """Git's sha1 of any other."""


@dataclass(frozen=True)
class Repository:
    """A model or a data set on the hub, at the configured revision."""

    name: str
    kind: str
    """model or dataset."""
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.name}"

    @property
    def cache(self) -> Path:
        """Its folder in the client's cache."""
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(
            repo_id=self.name, repo_type=self.kind
        )


@dataclass(frozen=True)
class Record:
    """A repository at one commit."""

    commit: str
    files: dict[str, RepoFile]


def record_path(repository: Repository, records: Path) -> Path:
    """File with the record of `repository`."""
    name = f"{repository.kind}s/{repository.name}@{repository.revision}"
    return records / (re.sub(r"[^\w.@-]", "--", name) + ".json")


def read_record(repository: Repository, records: Path) -> Record | None:
    """The record of an earlier download, if there is one.

    Raises:
        UserError: it cannot be read.
    """
    path = record_path(repository, records)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {name: RepoFile(**facts) for name, facts in record["files"].items()}
        return Record(record["commit"], files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged; it records the commit of {repository} in use: write that commit "
            "as the revision, or delete the file to take what the revision is now"
        ) from None


def write_record(repository: Repository, record: Record, records: Path) -> None:
    """Record the commit of a revision."""
    write_json(record_path(repository, records), {**asdict(repository), **asdict(record)})


def cached_record(repository: Repository) -> Record | None:
    """The commit and files of a revision in the client's cache; None: it is not there."""
    commit = repository.revision
    if not COMMIT.fullmatch(commit):
        try:
            commit = (repository.cache / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = repository.cache / "snapshots" / commit
    files = {
        path.relative_to(folder).as_posix(): _from_link(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Record(commit, files) if files else None


def _from_link(path: Path) -> RepoFile:
    # The cache links each file to a blob that is named by its hash.
    name = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return RepoFile(sha256=name)
    return RepoFile(blob=name) if COMMIT.fullmatch(name) else RepoFile()
