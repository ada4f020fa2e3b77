"""One writer for each artifact, over all runs on a machine.

Snakemake's own lock keeps two runs from the same files, with gaps: a run that ends removes the
locks of other runs, ``--nolock`` and ``--unlock`` bypass them, and the jobs of a killed Snakemake
go on. So every job also takes a second lock, which the kernel frees when the process ends or is
killed. On a cluster this guards the jobs of one node.
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
    """Be the one process that writes `final`, until this process ends.

    Waits while another process writes it. If that process ran the same command and finished, this
    program ends at once: its work is done. The further processes of a job return at once, since
    only the first one writes.

    Args:
        final: the last file that the job writes.
        argv: the program's command line.
        environ: names the folder of the locks (`lock_folder`).
        held: holds the lock.

    Raises:
        UserError: the folder of the locks belongs to another user.
        SystemExit: with status 0: another process has just written the file.
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
                _say(f"{final} is being written by process {number or '(starting)'}: waiting")
            waited = True
            time.sleep(_POLL_SECONDS)
        before = lock.read_text(encoding="utf-8").partition(" ")[2]
        if waited and before == command and final.exists():
            _say(f"{final} was written by that process, with the same settings: nothing is left")
            sys.exit(0)
        with contextlib.suppress(OSError):  # a full disk: the lock counts, not the note
            lock.write_text(f"{os.getpid()} {command}", encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
