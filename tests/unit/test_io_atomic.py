"""Atomic writes: the whole file or none, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_folder, atomic_path, explained, write_json, write_text
from palimpsest.io.tables import write_table


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_written_file_stands_alone_with_its_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "file", "text")
    assert names(tmp_path / "deep") == ["file"]
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o644


def test_a_file_in_a_private_folder_is_private(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    write_text(tmp_path / "private" / "file", "text")
    assert (tmp_path / "private" / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise failure

    write_text(tmp_path / "file", "old")
    with pytest.raises(failure):
        fail()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_failed_write_leaves_no_folder_that_was_made_for_it(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "new" / "file") as temporary:
            temporary.write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert names(tmp_path) == []


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "old").touch()

    def fail() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "new").touch()
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


@pytest.mark.parametrize("write", [atomic_folder, atomic_path])
def test_an_error_names_the_lasting_path(tmp_path: Path, write: Any) -> None:
    with pytest.raises(UserError, match="no good") as error, write(tmp_path / "made") as place:
        raise UserError(f"{place / 'config.json'} and {place.name}: no good")
    assert str(error.value) == f"{tmp_path}/made/config.json and made: no good"


def test_the_mask_of_the_user_counts(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.umask(0o077)\n"
        "from palimpsest.io.atomic import write_text; write_text(sys.argv[1], 'x')"
    )
    tmp_path.chmod(0o755)
    path = tmp_path / "made.txt"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_later_write_removes_what_killed_processes_left(tmp_path: Path) -> None:
    dead = dead_pid()
    (tmp_path / f".file.{dead}.tmp").write_text("half")
    (tmp_path / f".folder.{dead}.tmp").mkdir()
    (tmp_path / f".folder.{dead}.tmp" / "half").touch()
    alive = f".file.{os.getppid()}.tmp"
    (tmp_path / alive).write_text("another process is writing")
    (tmp_path / f".other.{dead}.tmp").write_text("of another file")
    (tmp_path / ".file.notes.tmp").write_text("somebody's own")
    write_text(tmp_path / "file", "whole")
    with atomic_folder(tmp_path / "folder"):
        pass
    kept = [alive, ".file.notes.tmp", f".other.{dead}.tmp", "file", "folder"]
    assert names(tmp_path) == sorted(kept)


def test_a_killed_process_leaves_a_file_that_the_next_write_removes(tmp_path: Path) -> None:
    program = (
        "import os, sys; from palimpsest.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "file"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    write_text(path, "whole")
    assert names(tmp_path) == ["file"]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 4 kB (pytest's own output may be one: limit no more than needed)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_every_kind_of_file_explains_a_failed_write(tmp_path: Path) -> None:
    numbers = torch.arange(5000.0)

    def tensors() -> None:
        with atomic_path(tmp_path / "tensors") as temporary:
            save_file({"t": numbers}, temporary)

    writers = {
        "text": lambda: write_text(tmp_path / "text", "x" * 9999),
        "table": lambda: write_table(tmp_path / "table", pa.table({"c": numbers.numpy()})),
        "tensors": tensors,
    }
    for name, write in writers.items():
        with pytest.raises(UserError, match=rf"cannot write {tmp_path}/{name}: "), small_files():
            write()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the same command again"),
        (errno.EDQUOT, "your disk quota is used up; free some space"),
        (errno.EACCES, "no permission to write there; check the owner and mode"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_system_error_becomes_advice(code: int, advice: str) -> None:
    with pytest.raises(UserError, match=f"cannot write out: {advice}"), explained(Path("out")):
        raise OSError(code, os.strerror(code))


def test_a_path_below_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (atomic_path, atomic_folder):
        with pytest.raises(UserError, match=r"cannot write .*file/sub/x: "):
            write(tmp_path / "file" / "sub" / "x").__enter__()


def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"x": float("nan")})
    assert names(tmp_path) == []
