"""Leases of GPUs: each job of a user on a machine has its GPUs for itself.

Snakemake counts GPUs, but does not assign them to jobs. So each job takes a lock for each of its
GPUs and holds it until its process ends: the kernel frees the locks of a killed process, too. A job
takes all of its GPUs or none, so a job that waits holds nothing that others wait for. Jobs that may
use the same GPUs form a queue, so that a job that needs several gets its turn.

The locks are plain flock(2) on file descriptors, which nothing in Python closes by itself. The
filelock package unlocks while the interpreter shuts down, when the GPU's memory is still in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.io.atomic import explained
from palimpsest.machines.gpus import VISIBLE, Gpu, usable
from palimpsest.machines.group import named_group

FOLDER = "PALIMPSEST_LOCKS"
"""Names another folder for the locks: for tests, or one that containers of a machine share."""

Say = Callable[[str], None]

_POLL_SECONDS = 0.25
_FOR_LIFE = contextlib.ExitStack()
_OPEN: set[int] = set()


def use_gpus(count: int | None, label: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Lease `count` GPUs until this process ends, and set CUDA_VISIBLE_DEVICES to them.

    Waits while other jobs have them. Call it before the import of torch, which reads the variable
    once. Nothing is leased in three cases: there is no GPU (the job runs on the CPU); SLURM gave
    the job no more GPUs than it needs; this is a further process of a job, whose first process has
    the lease.

    Args:
        count: number of GPUs; 0 hides all of them, None changes nothing.
        label: name of this job in the lines that waiting jobs print.
        environ: the environment that is read and changed.

    Raises:
        UserError: there are fewer GPUs, CUDA_VISIBLE_DEVICES names a GPU that does not exist, or
            the folder of the locks belongs to another user.
    """
    if count is None or named_group(environ).rank:
        return
    if count == 0:
        environ[VISIBLE] = ""
        return
    pool = usable(environ)
    by_slurm = "SLURM_JOB_ID" in environ
    if not pool or (by_slurm and len(pool) <= count):
        return
    folder = lock_folder(environ)
    with explained(folder):
        leased = lease(pool, count, label, folder, _FOR_LIFE)
    environ[VISIBLE] = ",".join(gpu.name for gpu in leased)
    if not by_slurm:
        # CUDA's own order is by speed; the numbers here are those of nvidia-smi.
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"


def held_files() -> list[int]:
    """Descriptors of the open files that lock this process's GPUs.

    A process that inherits them keeps the GPUs locked until it ends, too.
    """
    return sorted(_OPEN)


def lock_folder(environ: MutableMapping[str, str]) -> Path:
    """This user's folder of locks, the same for all jobs on the machine.

    Raises:
        UserError: it belongs to another user, or cannot be created.
    """
    # Not TMPDIR: Snakemake, schedulers and login sessions set it differently for different jobs.
    default = f"/tmp/palimpsest-gpus-{os.getuid()}"
    folder = Path(environ.get(FOLDER) or default)
    with explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.lstat().st_uid
    if owner != os.getuid():
        raise UserError(f"{folder} belongs to another user; set {FOLDER} to a folder of your own")
    return folder


def lease(
    pool: Sequence[Gpu],
    count: int,
    label: str,
    folder: Path,
    held: contextlib.ExitStack,
    say: Say | None = None,
) -> list[Gpu]:
    """Lock `count` GPUs of `pool` until `held` is closed or the process ends.

    Waits for them, and prints which job has them whenever that changes.

    Raises:
        UserError: `pool` has fewer GPUs.
    """
    if count > len(pool):
        raise UserError(
            f"{label}: {count} GPUs are needed, but only {len(pool)} can be used here "
            f"({', '.join(gpu.name for gpu in pool)}): configure fewer, or list more in {VISIBLE}"
        )
    news = _News(say or _print, f"{label}: waiting for {count} of {len(pool)} GPUs")
    with contextlib.ExitStack() as turn:
        queue = folder / f"queue-{_digest(pool)}"
        while not _lock(queue, label, turn):
            news.show(f"{_state(pool, folder)}; next: {_holder(queue)}")
            time.sleep(_POLL_SECONDS)
        while not (leased := _take(pool, count, label, folder, held)):
            news.show(_state(pool, folder))
            time.sleep(_POLL_SECONDS)
    return leased


class _News:
    """Prints a message only if it differs from the last one."""

    def __init__(self, say: Say, opening: str) -> None:
        self.say, self.opening, self.last = say, opening, ""

    def show(self, state: str) -> None:
        if state != self.last:
            self.say(f"{self.opening}; {state}")
        self.last = state


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _take(
    pool: Sequence[Gpu], count: int, label: str, folder: Path, held: contextlib.ExitStack
) -> list[Gpu]:
    """Lock `count` GPUs into `held`, or none."""
    with contextlib.ExitStack() as attempt:
        leased: list[Gpu] = []
        for gpu in pool:
            if _lock(_file(folder, gpu), label, attempt):
                leased.append(gpu)
            if len(leased) == count:
                held.enter_context(attempt.pop_all())
                return leased
    return []


def _lock(path: Path, label: str, held: contextlib.ExitStack) -> bool:
    """Try to lock a file into `held`, and write the holder into it."""
    if not try_lock(path, held):
        return False
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # a full disk: the lock counts, not the note
        path.write_text(f"{label} (process {os.getpid()}, since {since})", encoding="utf-8")
    return True


def try_lock(path: Path, held: contextlib.ExitStack) -> bool:
    """Lock a file into `held`, unless another process holds the lock.

    Raises:
        OSError: the file cannot be opened.
    """
    # Programs that this one starts do not inherit it by default: they may outlive this one.
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(number)
        if isinstance(error, BlockingIOError):
            return False
        raise
    held.callback(_close, number)
    _OPEN.add(number)
    return True


def _close(number: int) -> None:
    _OPEN.discard(number)
    os.close(number)


def _state(pool: Sequence[Gpu], folder: Path) -> str:
    return ", ".join(f"{gpu.name}: {_status(_file(folder, gpu))}" for gpu in pool)


def _status(path: Path) -> str:
    with contextlib.ExitStack() as tried:
        return "free" if try_lock(path, tried) else _holder(path)


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8") or "a job that is just starting"


def _file(folder: Path, gpu: Gpu) -> Path:
    return folder / (gpu.uuid.replace("/", "_") + ".lock")


def _digest(pool: Sequence[Gpu]) -> str:
    return hashlib.sha256("\n".join(sorted(gpu.uuid for gpu in pool)).encode()).hexdigest()[:16]
