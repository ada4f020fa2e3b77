"""Two runs at once in one folder: apart they do not disturb each other, nothing is lost."""

from __future__ import annotations

import os
import signal

import pytest

from kit import chaos
from kit.copies import MINI, Copy, Running

ACQUIRED = "results/mini/sku/seed-0/acquired"
TOKENS = "resources/tokens/smollm2-135m/mini-general/manifest.json"


def job(copy: Copy) -> int | None:
    """The process that acquires."""
    return chaos.job(copy.folder, "acquire", ACQUIRED)


def acquire(copy: Copy) -> Running:
    return copy.start(f"{ACQUIRED}/manifest.json")


@pytest.mark.slow
def test_runs_side_by_side_write_nothing_twice(built: Copy, work: Copy) -> None:
    for name in (f"{ACQUIRED}/manifest.json", TOKENS):
        work.path(name).unlink()
    first, third = acquire(work), None
    try:
        # It has its lock before it trains.
        first.wait_for(lambda: chaos.steps_done(work.path(f"{ACQUIRED}.ckpt")) > 0)
        holder = job(work)
        assert holder is not None
        # Held for as long as the others need.
        os.kill(holder, signal.SIGSTOP)
        # Where they meet, Snakemake refuses the second.
        second = work.snakemake(f"{ACQUIRED}/manifest.json", *MINI, "--cores", "all")
        assert second.returncode == 1
        assert "Error: Directory cannot be locked" in second.stderr
        assert "Traceback" not in second.stderr
        # Other files are built meanwhile ...
        work.build(TOKENS)
        # ... after which Snakemake has forgotten the first run's lock, but the jobs have their own.
        third = acquire(work)
        third.wait_for(lambda: f"is being written by process {holder}: waiting" in third.printed)
        os.kill(holder, signal.SIGCONT)
        first.end()
        printed = third.end()
    finally:
        for run in (first, third):
            if run is not None:
                run.stop()
    assert "was written by that process, with the same settings: nothing is left" in printed
    weights = f"{ACQUIRED}/adapter_model.safetensors"
    assert work.path(weights).read_bytes() == built.path(weights).read_bytes()
    assert work.dry(f"{ACQUIRED}/manifest.json", TOKENS) == set()
