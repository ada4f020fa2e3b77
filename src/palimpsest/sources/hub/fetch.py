"""Fetch chosen files of a repository, all of one commit, each compared with its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tenacity
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import RevisionNotFoundError

from palimpsest.errors import UserError
from palimpsest.io.atomic import sha256_of
from palimpsest.sources.hub.errors import CLIENT_ERRORS, explain, is_passing, pause_of
from palimpsest.sources.hub.record import (
    COMMIT,
    RECORDS,
    Record,
    RepoFile,
    Repository,
    cached_record,
    read_record,
    record_path,
    write_record,
)
from palimpsest.sources.hub.token import mask_logs, token
from palimpsest.sources.transfer import transfer_lines

TRIES = 3
"""Most requests for the list of a repository's files; the client itself repeats downloads."""

LONGEST_WAIT_S = 300.0
"""Longest wait; the hub counts requests in windows of this length. A longer one is an error."""

Choose = Callable[[Sequence[str]], Iterable[str]]
"""Selects the needed files among a repository's file names."""


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit."""

    commit: str
    files: dict[str, Path]
    """Name in the repository -> the file in the client's cache."""


def fetch(
    repository: Repository,
    choose: Choose,
    records: Path = RECORDS,
    log: Callable[[str], None] = print,
) -> Snapshot:
    """Bring the files that `choose` selects into the client's cache; those that are there stay.

    A branch or tag stands for the same commit as at its first download, see `record`.

    Raises:
        UserError: no such repository, revision or file; no access; the hub cannot be reached and
            the cache lacks a file; a file's size or hash differs (it is then removed).
    """
    mask_logs()
    record = _resolve(repository, records, log)
    chosen = sorted(set(choose(sorted(record.files))))
    total = sum(record.files[name].size or 0 for name in chosen)
    log(f"{repository} at {record.commit[:12]}: {len(chosen)} files, {total / 1e6:.1f} MB")
    files = {name: _download(repository, record, name, records, log) for name in chosen}
    for name, path in files.items():
        _check(repository, name, path, record.files[name])
    return Snapshot(record.commit, files)


def _resolve(repository: Repository, records: Path, log: Callable[[str], None]) -> Record:
    earlier = read_record(repository, records)
    if earlier is not None:
        if earlier.commit != repository.revision:
            path = record_path(repository, records)
            log(f"{repository}: {repository.revision} is {earlier.commit[:12]}, recorded in {path}")
        return earlier
    if constants.HF_HUB_OFFLINE:
        return _from_cache(repository, log)
    record = _look_up(repository)
    write_record(repository, record, records)
    return record


def _from_cache(repository: Repository, log: Callable[[str], None]) -> Record:
    record = cached_record(repository)
    if record is None:
        raise UserError(
            f"source '{repository}': its revision '{repository.revision}' is not in the cache and "
            "HF_HUB_OFFLINE is set; fetch it once where the hub can be reached, with the same "
            "HF_HOME"
        )
    log(f"{repository}: offline; the cache has {len(record.files)} of its files, maybe not all")
    return record


def _look_up(repository: Repository) -> Record:
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_waiting),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=_wait,
        reraise=True,
    )
    try:
        return tries(_look_up_once, repository)
    except CLIENT_ERRORS as error:
        raise explain(error, repository) from error


def _worth_waiting(error: BaseException) -> bool:
    return is_passing(error) and (pause_of(error) or 0) <= LONGEST_WAIT_S


def _wait(state: tenacity.RetryCallState) -> float:
    pause = pause_of(state.outcome.exception() if state.outcome else None)
    return float(2 ** (state.attempt_number - 1)) if pause is None else pause


def _look_up_once(repository: Repository) -> Record:
    # False: the client would look for a token in files, too.
    api = HfApi(token=token() or False)
    look_up = api.dataset_info if repository.kind == "dataset" else api.model_info
    info = look_up(
        repository.name,
        revision=repository.revision,
        files_metadata=True,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    )
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise UserError(f"source '{repository}': {constants.ENDPOINT} names no commit; no hub?")
    files = {
        file.rfilename: RepoFile(
            file.lfs.size if file.lfs else file.size,
            file.lfs.sha256 if file.lfs else None,
            None if file.lfs else file.blob_id,
        )
        for file in info.siblings or ()
    }
    return Record(info.sha, files)


def _download(
    repository: Repository,
    record: Record,
    name: str,
    records: Path,
    log: Callable[[str], None],
) -> Path:
    try:
        return Path(
            hf_hub_download(
                repository.name,
                name,
                repo_type=repository.kind,
                revision=record.commit,
                token=token() or False,
                tqdm_class=transfer_lines(name, log),
            )
        )
    except RevisionNotFoundError as error:
        raise _moved(repository, record, records) from error
    except CLIENT_ERRORS as error:
        raise explain(error, repository, name) from error


def _moved(repository: Repository, record: Record, records: Path) -> UserError:
    path = record_path(repository, records)
    return UserError(
        f"source '{repository}': '{repository.revision}' was commit {record.commit} at its first "
        f"download ({path}), which the hub does not have any more; delete that file to take what "
        "the revision is now"
    )


def _check(repository: Repository, name: str, path: Path, expected: RepoFile) -> None:
    fault = _fault(path, expected)
    if fault is None:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise UserError(
        f"source '{repository}', {name}: {fault}; the file was removed from the cache: "
        "run the same command again to fetch it anew"
    )


def _fault(path: Path, expected: RepoFile) -> str | None:
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"has {size} bytes instead of {expected.size}"
    if expected.sha256 is not None and sha256_of(path) != expected.sha256:
        return "is damaged (sha256 differs)"
    if expected.sha256 is None and expected.blob is not None and _git_hash(path) != expected.blob:
        return "is damaged (git hash differs)"
    return None


def _git_hash(path: Path) -> str:
    # Only small files are outside LFS.
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
