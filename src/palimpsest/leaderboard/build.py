"""Computes the lines of the leaderboard one after the other; each finished one is kept at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from palimpsest.config.schema import Config
from palimpsest.io.atomic import write_text
from palimpsest.io.numbers import HOUR, duration
from palimpsest.leaderboard.order import Entry, entries, title_of
from palimpsest.leaderboard.page import pages, remaining
from palimpsest.leaderboard.rows import key_of, read, row_of, write
from palimpsest.pipeline.launch import command

Build = Callable[[Sequence[str]], bool]
"""Builds targets and says whether all of them are there."""


def snakemake(overlay: Path, cores: str) -> Build:
    """A `Build` that runs Snakemake with the overlay; what a kill left unfinished runs again."""
    options = ["--rerun-incomplete", "--cores", cores, "--configfile", str(overlay)]

    def build(targets: Sequence[str]) -> bool:
        words = command([*options, "--", *targets])
        done = subprocess.run([sys.executable, "-m", "snakemake", *words], check=False)
        return done.returncode == 0

    return build


def run(cfg: Config, file: Path, build: Build, limit_hours: float | None = None) -> list[Entry]:
    """Compute what has no line yet, in order; a line that fails does not stop the others.

    Args:
        cfg: the configuration without the overlay.
        file: the csv, in the folder `docs` of the checkout.
        build: see `snakemake`.
        limit_hours: hours after which no line is begun; None: all are.

    Returns:
        Entries that failed.
    """
    begin, failed = time.monotonic(), []
    for one in remaining(entries(cfg), read(file)):
        if limit_hours is not None and time.monotonic() - begin > limit_hours * HOUR:
            print(f"{limit_hours:g} hours are over: run the same command again to go on")
            break
        print(f"{one.subject}/{one.name}", flush=True)
        if build(one.targets):
            keep(cfg, file, one)
        else:
            failed.append(one)
    return failed


def keep(cfg: Config, file: Path, one: Entry) -> None:
    """Add the line of a finished entry to the csv, in its place, and renew the page."""
    places = {(entry.subject, entry.name): n for n, entry in enumerate(entries(cfg))}
    rows = [row for row in read(file) if key_of(row) != (one.subject, one.name)]
    rows.append(row_of(Path("results") / one.subject / one.name, title_of(cfg, one)))
    rows.sort(key=lambda row: places.get(key_of(row), len(places)))
    write(file, rows, cfg.score.confidence)
    root = file.parent.parent
    for path, text in pages(root).items():
        write_text(root / path, text)


def listing(left: Sequence[Entry], total: int, seconds: Mapping[tuple[str, str], float]) -> str:
    """The lines that remain in their order, each with the time that it would take here.

    Args:
        left: what remains.
        total: number of all lines.
        seconds: subject and method -> estimated time; with an empty method what a subject's share.
    """
    if not left:
        return f"all {total} lines are finished"
    width = max(len(f"{one.subject}/{one.name}") for one in left)
    lines = [f"{total - len(left)} of {total} lines are finished; these remain:"]
    for subject in dict.fromkeys(one.subject for one in left):
        if shared := seconds.get((subject, "")):
            lines.append(f"{f'{subject}, once for all':<{width}}  ~{duration(shared, rough=True)}")
        for one in (one for one in left if one.subject == subject):
            time_ = seconds.get((subject, one.name))
            text = "unknown" if time_ is None else f"~{duration(time_, rough=True)}"
            lines.append(f"{f'{one.subject}/{one.name}':<{width}}  {text}")
    lines.append(f"in all ~{duration(sum(seconds.values()), rough=True)}, one job after the other")
    return "\n".join(lines)


def estimated(cfg: Config, left: Sequence[Entry], overlay: Path) -> dict[tuple[str, str], float]:
    """Subject and method -> seconds of the jobs that would run, as `palimpsest plan` has them.

    Args:
        cfg: the configuration with the overlay.
        left: entries that remain.
        overlay: its file.
    """
    from palimpsest.pipeline.plan.estimate import plan
    from palimpsest.pipeline.plan.jobs import jobs_of
    from palimpsest.pipeline.plan.machine import this_machine

    targets = [target for one in left for target in one.targets]
    if not targets:
        return {}
    names = {(one.subject, one.name) for one in left}
    seconds: dict[tuple[str, str], float] = {}
    jobs = jobs_of(targets, ["--configfile", str(overlay)])
    for line in plan(cfg, jobs, this_machine()).lines:
        if not line.job.cached:
            w = line.job.wildcards
            key = w.get("model", ""), w.get("method", "")
            key = key if key in names else (key[0], "")
            seconds[key] = seconds.get(key, 0.0) + (line.seconds or 0.0)
    return seconds
