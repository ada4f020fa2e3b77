"""One process for each device of a job.

The program itself is the first process. It starts copies of itself for the other devices, and it
alone writes, prints, answers signals and holds the lease. The copies end with it, even when it is
killed: each reads an empty pipe that closes with the first process. They inherit the locks of its
GPUs, so these stay locked until the last process ends.

If a copy fails, the job ends with the message of the copy: the first process itself sees no more
than a broken connection (or, on CUDA, nothing at all).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from palimpsest.errors import UserError
from palimpsest.io.atomic import write_json
from palimpsest.machines.gpus import VISIBLE, usable
from palimpsest.machines.group import Group, named_group
from palimpsest.machines.lease import held_files

PATIENCE = 5.0
"""Seconds in which the first process may notice by itself that a copy has failed."""

MOMENT = 1.0
"""Seconds in which a copy reports a failure that came before ours."""

_TAIL = 20


@contextlib.contextmanager
def several(untracked: dict[str, Any]) -> Iterator[None]:
    """Run a block in one process per device.

    Args:
        untracked: a stage's untracked settings; ``devices`` and ``parallel`` are taken out of it.

    Raises:
        UserError: there are GPUs, but too few; or a copy failed.
    """
    devices, parallel = untracked.pop("devices", 1), untracked.pop("parallel", "ddp")
    if devices == 1:
        yield
    elif named_group().rank:
        with _following():
            yield
    else:
        _check_gpus(devices)
        with tempfile.TemporaryDirectory(prefix="palimpsest-") as folder:
            store = str(Path(folder) / "store")
            first = Group(0, devices, parallel == "fsdp", store)
            os.environ |= first.environment()
            # All processes are on this machine; its host name may not resolve.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            with _Copies(first, Path(folder)).watched():
                yield


def _check_gpus(devices: int) -> None:
    usable_gpus = len(usable(os.environ))
    if 0 < usable_gpus < devices:
        raise UserError(
            f"devices: {devices}, but this job may use {usable_gpus} "
            f"({VISIBLE}={os.environ.get(VISIBLE, '')}); set devices to {usable_gpus} in bases or "
            f"models, or let Snakemake give more: --resources gpu={devices}"
        )


@dataclass(frozen=True)
class _Failure:
    """When a process failed (by the monotonic clock of the machine), and why."""

    at: float
    text: str


class _Copies:
    """The copies of this program, one for each device but the first."""

    def __init__(self, first: Group, folder: Path) -> None:
        self._folder, self._over, self._reporting = folder, threading.Event(), threading.Lock()
        self._running = {
            rank: self._start(Group(rank, first.count, first.sharded, first.store))
            for rank in range(1, first.count)
        }

    def _start(self, group: Group) -> subprocess.Popen[bytes]:
        with open(self._printed(group.rank), "wb") as printed:
            return subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env={**os.environ, **group.environment()},
                stdin=subprocess.PIPE,  # closes when this process ends
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=held_files(),
            )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Run the part of the first process; afterwards no copy runs."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
            with self._reporting:
                self._over.set()
            self._await()
        except Exception as error:
            at = time.monotonic()
            with self._reporting:
                self._over.set()
            is_user_error = isinstance(error, UserError)
            # Report the first failure, not the broken connections that it caused.
            failure = self._failure(MOMENT if is_user_error else PATIENCE)
            if failure and not (is_user_error and failure.at > at):
                raise UserError(failure.text) from None
            raise
        finally:
            self._over.set()
            for process in self._running.values():
                process.kill()
                process.wait()

    def _watch(self) -> None:
        # On CUDA the first process may wait forever for a copy that is gone.
        while not self._over.wait(0.2):
            failure = self._failure()
            if failure and not self._over.wait(PATIENCE):
                with self._reporting:
                    if not self._over.is_set():
                        self._give_up(failure.text)

    def _give_up(self, failure: str) -> NoReturn:
        for process in self._running.values():
            process.kill()
        print(f"error: {failure}", file=sys.stderr, flush=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)

    def _await(self) -> None:
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)

    def _failure(self, within: float = 0.0) -> _Failure | None:
        """The failure of a copy, now or within the next seconds."""
        deadline = time.monotonic() + within
        while True:
            failed = [rank for rank, process in self._running.items() if process.poll()]
            if failed:
                return self._first_of(failed)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def _first_of(self, failed: list[int]) -> _Failure:
        # One failure ends the others; the first one is the cause.
        failures = [_read_report(self._folder, rank) or self._silent(rank) for rank in failed]
        return min(failures, key=lambda failure: failure.at)

    def _silent(self, rank: int) -> _Failure:
        status = self._running[rank].returncode
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        lines = self._printed(rank).read_text(errors="replace").splitlines()[-_TAIL:]
        text = f"the process of device {rank} ended by itself ({how})"
        return _Failure(0.0, "\n".join([text + ("; its last lines:" if lines else ""), *lines]))

    def _printed(self, rank: int) -> Path:
        return self._folder / f"printed-{rank}.txt"


@contextlib.contextmanager
def _following() -> Iterator[None]:
    """Run the part of a copy: it ignores signals and ends with the first process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    group = named_group()
    status = 0
    try:
        yield
    except UserError as error:
        status = _report(group, str(error))
    except Exception:
        status = _report(group, f"device {group.rank}:\n{traceback.format_exc()}".rstrip())
    except SystemExit:
        pass  # its part is done
    # Without the interpreter's shutdown, which a broken connection may block.
    os._exit(status)


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _report(group: Group, text: str) -> int:
    failure = _Failure(time.monotonic(), text)
    write_json(_report_file(Path(group.store).parent, group.rank), asdict(failure))
    return 1


def _read_report(folder: Path, rank: int) -> _Failure | None:
    try:
        return _Failure(**json.loads(_report_file(folder, rank).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _report_file(folder: Path, rank: int) -> Path:
    return folder / f"failed-{rank}.json"
