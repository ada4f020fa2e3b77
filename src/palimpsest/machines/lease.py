"""Exclusive GPUs for a job, among all jobs of one user on a machine.

Snakemake counts GPUs, but does not assign them to jobs. So each job locks each of its GPUs until
its process ends; if the process is killed, the kernel frees the locks. A job locks all of its GPUs
or none, so a waiting job holds nothing that others wait for. Jobs that may use the same GPUs queue
up, so a job that needs several gets its turn.

The locks are flock(2) on file descriptors, which Python does not close by itself. The filelock
package unlocks while the interpreter shuts down, when the GPU's memory is still in use.
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
"""Sets another folder for the locks: for tests, or to share one between containers."""

Say = Callable[[str], None]

_POLL_SECONDS = 0.25
_FOR_LIFE = contextlib.ExitStack()
_OPEN: set[int] = set()


def use_gpus(count: int | None, label: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Lease `count` GPUs until this process ends, and set CUDA_VISIBLE_DEVICES to them.

    Waits while other jobs hold them. Call this before torch is imported, which reads the variable
    once. Nothing is leased if there is no GPU (the job runs on the CPU), if SLURM gave the job
    just the GPUs it needs, or in the further processes of a job (the first one holds the lease).

    Args:
        count: number of GPUs; 0 hides all, None changes nothing.
        label: this job's name in the messages of waiting jobs.
        environ: the environment to read and change.

    Raises:
        UserError: there are fewer GPUs, CUDA_VISIBLE_DEVICES names a missing one, or the folder of
            the locks belongs to another user.
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
        taken = lease(pool, count, label, folder, _FOR_LIFE)
    environ[VISIBLE] = ",".join(gpu.name for gpu in taken)
    if not by_slurm:
        # CUDA's own order is by speed; the numbers here are those of nvidia-smi.
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"


def held_files() -> list[int]:
    """File descriptors of the locks on this process's GPUs.

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

    While it waits, it prints the holders whenever they change.

    Raises:
        UserError: `pool` has fewer GPUs.
    """
    if count > len(pool):
        raise UserError(
            f"{label}: {count} GPUs are asked for, but only {len(pool)} can be used here "
            f"({', '.join(gpu.name for gpu in pool)}): ask for fewer, or name more in {VISIBLE}"
        )
    news = _News(say or _print, f"{label}: waiting for {count} of {len(pool)} GPUs")
    with contextlib.ExitStack() as turn:
        queue = folder / f"queue-{_digest(pool)}"
        while not _lock(queue, label, turn):
            news.tell(f"{_state(pool, folder)}; next: {_holder(queue)}")
            time.sleep(_POLL_SECONDS)
        while not (taken := _take(pool, count, label, folder, held)):
            news.tell(_state(pool, folder))
            time.sleep(_POLL_SECONDS)
    return taken


class _News:
    """Prints a message only if it differs from the last one."""

    def __init__(self, say: Say, opening: str) -> None:
        self.say, self.opening, self.last = say, opening, ""

    def tell(self, news: str) -> None:
        if news != self.last:
            self.say(f"{self.opening}; {news}")
        self.last = news


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _take(
    pool: Sequence[Gpu], count: int, label: str, folder: Path, held: contextlib.ExitStack
) -> list[Gpu]:
    """Lock `count` GPUs into `held`, or none."""
    with contextlib.ExitStack() as attempt:
        taken: list[Gpu] = []
        for gpu in pool:
            if _lock(_file(folder, gpu), label, attempt):
                taken.append(gpu)
            if len(taken) == count:
                held.enter_context(attempt.pop_all())
                return taken
    return []


def _lock(path: Path, label: str, held: contextlib.ExitStack) -> bool:
    """Try to lock a file into `held`, and write the holder's name into it."""
    if not try_lock(path, held):
        return False
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # on a full disk the lock still holds
        path.write_text(f"{label} (process {os.getpid()}, since {since})", encoding="utf-8")
    return True


def try_lock(path: Path, held: contextlib.ExitStack) -> bool:
    """Lock a file until `held` is closed; return False if another process has the lock.

    Raises:
        OSError: it cannot be opened.
    """
    # Child processes do not inherit it by default, because they may outlive this one.
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
