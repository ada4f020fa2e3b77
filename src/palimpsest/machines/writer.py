"""One writer at a time for each artifact.

Snakemake's lock does not always keep two runs from the same files: a run that ends removes the
locks of others, ``--nolock`` and ``--unlock`` skip them, and if only Snakemake is killed its jobs
go on. So every job also takes its own lock, which the kernel frees when the process ends. On a
cluster this guards the jobs of one node.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from palimpsest.io.atomic import explained
from palimpsest.io.canonical import fingerprint
from palimpsest.machines.group import named_group
from palimpsest.machines.lease import lock_folder, try_lock

_POLL_SECONDS = 0.25
_FOR_LIFE = contextlib.ExitStack()


def write_once(
    final: Path,
    argv: Sequence[str] = sys.argv,
    environ: MutableMapping[str, str] = os.environ,
    held: contextlib.ExitStack = _FOR_LIFE,
) -> None:
    """Lock `final` for writing until this process ends.

    Waits while another process has the lock. If that process ran the same command and finished it,
    this program ends. The further processes of a job return at once, because only the first writes.

    Args:
        final: the last file that the job writes.
        argv: the program's command line.
        environ: names the folder of the locks (see `lock_folder`).
        held: keeps the lock.

    Raises:
        UserError: the folder of the locks belongs to another user.
        SystemExit: status 0; the other process has written the file.
    """
    if named_group(environ).rank:
        return
    command = fingerprint(list(argv))
    name = hashlib.sha256(str(final.absolute()).encode()).hexdigest()[:32]
    lock = lock_folder(environ) / f"writer-{name}"
    waited = False
    with explained(lock):
        while not try_lock(lock, held):
            if not waited:
                number = lock.read_text(encoding="utf-8").partition(" ")[0]
                _print(f"{final} is being written by process {number or '(starting)'}: waiting")
            waited = True
            time.sleep(_POLL_SECONDS)
        before = lock.read_text(encoding="utf-8").partition(" ")[2]
        if waited and before == command and final.exists():
            _print(f"{final} was written by that process, with the same settings: nothing is left")
            sys.exit(0)
        with contextlib.suppress(OSError):  # on a full disk the lock still holds
            lock.write_text(f"{os.getpid()} {command}", encoding="utf-8")


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
