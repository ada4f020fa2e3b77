"""Atomic writes: a reader sees the whole file or none, and a failed write leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from palimpsest.errors import UserError

_UMASK = os.umask(0o077)
os.umask(_UMASK)


def is_private(path: Path) -> bool:
    """Whether nobody but its owner can read a file or folder."""
    return not path.stat().st_mode & 0o077


def keep_private(folder: Path, sources: Iterable[Path]) -> None:
    """Let only its owner read `folder` if that is so of one of the `sources` that it is made of."""
    if any(is_private(source) for source in sources if source.exists()):
        os.chmod(folder, 0o700)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's write errors about `path` into a `UserError` with advice."""
    try:
        yield
    except SafetensorError as error:
        # The package wraps the system's error in another text.
        if number := re.search(r"os error (\d+)", str(error)):
            code = int(number[1])
            raise explain_write_error(OSError(code, os.strerror(code)), path) from error
        raise
    except OSError as error:
        raise explain_write_error(error, path) from error


def explain_write_error(error: OSError, path: Path) -> UserError:
    """The error about a failed write, with advice where the system's error has a known cause."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
        errno.EACCES: "no permission to write there; check the owner and mode of the folder",
        errno.EPERM: "no permission to write there; check the owner and mode of the folder",
        errno.EROFS: "the file system is read-only",
    }.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {advice}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success sync it and rename it to `path`.

    On any exception the temporary file is removed, with its folder if that is new, and `path` stays
    unchanged. All users may read the file, unless its folder is private.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    is_new_folder = not os.path.exists(path.parent)  # noqa: PTH110 - raises nothing
    try:
        with explained(path), _named(temporary, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            shared = 0o644 & ~_UMASK
            os.chmod(temporary, 0o600 if is_private(path.parent) else shared)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            if is_new_folder:
                path.parent.rmdir()
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success it replaces `path`."""
    path = Path(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explained(path), _named(temporary, path):
            temporary.mkdir(parents=True)
            _remove_leftovers(path)
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Let the errors of the block name `path`, not the temporary one, which will be gone."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for one, other in ((str(temporary), str(path)), (temporary.name, path.name)):
            text = text.replace(one, other)
        raise UserError(text) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove_leftovers(path: Path) -> None:
    # Left by processes that were killed while they wrote `path`.
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for sibling in path.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _alive(int(match[1])):
            if sibling.is_dir():
                shutil.rmtree(sibling, ignore_errors=True)
            else:
                sibling.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically; NaN is refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def sha256_of(path: str | Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
