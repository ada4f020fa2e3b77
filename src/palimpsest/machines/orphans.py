"""SLURM jobs that a killed Snakemake left behind.

Snakemake forgets them: the next run would submit the same work again, and two jobs would write one
artifact. So before a run plans anything, it stops the jobs of this folder that belong to no live
run. Training jobs then save a checkpoint, from which the new ones continue.

A live run has Snakemake's lock on the folder, from before its first job is submitted. A killed run
leaves its lock behind; Snakemake refuses to build the locked files until ``--unlock``.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.errors import UserError, one_screen

LOOKING = (
    *("dryrun", "touch", "unlock", "lint", "list_rules", "list_target_rules", "print_compilation"),
    *("dag", "rulegraph", "filegraph", "d3dag", "summary", "detailed_summary", "archive"),
    *("list_changes", "list_input_changes", "list_params_changes", "list_untracked"),
    *("report", "generate_unit_tests", "containerize", "cleanup_metadata", "cleanup_shadow"),
)
"""Options with which Snakemake runs no job."""

_SECONDS = 120
_POLL_SECONDS = 0.5
_RUN = re.compile(r"(?:.+_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FIELDS = "%i|%T|%j|%k|%Z"


@dataclass(frozen=True)
class Job:
    """A SLURM job that Snakemake submitted.

    Attributes:
        number: SLURM's id.
        state: its state in SLURM, e.g. ``RUNNING``.
        task: the rule and its wildcards, e.g. ``acquire_wildcards_mini_sku_0``.
    """

    number: str
    state: str
    task: str


def stop_orphans_or_exit(argv: Sequence[str], folder: Path | None = None) -> None:
    """Stop SLURM jobs of this folder whose Snakemake is gone, and wait for their end.

    The Snakefile calls it. It does nothing inside jobs, with options such as ``--dry-run``, and
    while a run has the folder's lock.

    Args:
        argv: ``sys.argv``.
        folder: the working directory, by default the current one.
    """
    if (
        "--mode" in argv
        or "snakemake" not in Path(argv[0]).parts[-2:]
        or not shutil.which("squeue")
    ):
        return
    folder = (folder or Path.cwd()).resolve()
    try:
        orphans = jobs_in(folder)
        # After squeue: a run that submits jobs has the lock already.
        if orphans and not locked(folder) and _runs_jobs(argv):
            _stop(orphans, folder)
    except UserError as error:
        # Other runs do not need SLURM: its programs may be installed without a cluster.
        if _executor(argv) == "slurm" and _runs_jobs(argv):
            sys.exit(f"error: {error}")


def jobs_in(folder: Path) -> list[Job]:
    """This user's jobs that Snakemake submitted from `folder`, waiting or running.

    Raises:
        UserError: SLURM does not answer.
    """
    listed = _call("squeue", "--noheader", f"--user={getpass.getuser()}", f"--format={_FIELDS}")
    jobs = []
    for line in listed.splitlines():
        number, state, name, comment, started_in = line.split("|", 4)
        kind, _, task = comment.partition("_")
        ours = _RUN.fullmatch(name) and kind in ("rule", "group")
        if ours and os.path.realpath(started_in) == str(folder):
            jobs.append(Job(number, state, task))
    return jobs


def locked(folder: Path) -> bool:
    """Whether a run of Snakemake, live or killed, has left a lock in `folder`."""
    return any(folder.glob(".snakemake/locks/*.lock"))


def _stop(orphans: Sequence[Job], folder: Path) -> None:
    lines = [f"{job.number} {job.task} ({job.state.lower()})" for job in orphans]
    print(
        "\n  ".join(["stopping SLURM jobs that a killed run left here:", *one_screen(lines)]),
        file=sys.stderr,
        flush=True,
    )
    _call("scancel", *(job.number for job in orphans))
    while jobs_in(folder):
        time.sleep(_POLL_SECONDS)


def _call(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unknown(str(error)) from None
    if done.returncode:
        raise _unknown((done.stderr.strip() or f"{command[0]} failed").splitlines()[-1])
    return done.stdout


def _unknown(why: str) -> UserError:
    return UserError(f"SLURM cannot tell whether jobs of an earlier run are still at work: {why}")


def _runs_jobs(argv: Sequence[str]) -> bool:
    args = _parsed(argv)
    return not any(getattr(args, option) for option in LOOKING)


def _executor(argv: Sequence[str]) -> str | None:
    executor: str | None = _parsed(argv).executor
    return executor


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    from snakemake.cli import parse_args  # slow to import, and loaded already where it matters

    args: argparse.Namespace = parse_args(list(argv[1:]))[1]
    return args
