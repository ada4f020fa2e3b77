"""A chain that is disturbed at twenty seeded moments ends as one that nothing disturbed.

The mini chain by default; ``make chaos`` disturbs the embedded one (PALIMPSEST_CHAOS names it).
PALIMPSEST_CHAOS_SEED draws other moments.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit import chaos
from kit.chaos import Chain, Chaos, Moment, chain_of, moments
from kit.copies import MINI, Copy, Running

SEED = int(os.environ.get("PALIMPSEST_CHAOS_SEED", "20261122"))
LARGE = os.environ.get("PALIMPSEST_CHAOS")


def survives(
    quiet: Copy, copy: Copy, chain: Chain, planned: Sequence[Moment], overlays: Sequence[str]
) -> None:
    """Disturb the chain in `copy`; in the end it is as in `quiet`."""
    command = ["snakemake", chain.target, *overlays, "--cores", "all"]
    unlock = unlocking(copy, ["--unlock", *overlays])
    disturbed = Chaos(copy, chain, start=lambda: Running(copy, command), unlock=unlock)
    with chaos.small_disk(copy.path("results"), 64 if overlays else 512):
        printed = disturbed.disturb(planned)
        print(*(line for line in printed.splitlines() if "--- chaos:" in line), sep="\n")
        for adapter in chain.adapters:
            assert copy.path(adapter).read_bytes() == quiet.path(adapter).read_bytes(), adapter
        assert metrics(copy, chain) == metrics(quiet, chain)
        assert "Traceback" not in printed
        assert leftovers(copy) == []
        done = copy.snakemake(*command[1:], "--dry-run")
        assert "Nothing to be done" in done.stdout + done.stderr
        assert still_running(copy) == []


def unlocking(copy: Copy, command: Sequence[str]) -> Callable[[], object]:
    """Frees the lock with Snakemake once, and later as Snakemake did it, without its start."""
    locks, seen = copy.path(".snakemake/locks"), False

    def unlock() -> None:
        nonlocal seen
        if seen:
            shutil.rmtree(locks)
            return
        done = copy.snakemake(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not locks.is_dir() or not any(locks.iterdir())
        seen = True

    return unlock


def metrics(copy: Copy, chain: Chain) -> str:
    found: Any = json.loads(copy.path(chain.target).read_text())
    return json.dumps(found["metrics"])


def leftovers(copy: Copy) -> list[str]:
    """Temporary files and side folders that should be gone."""
    produced = (p for f in ("results", "resources") for p in copy.path(f).rglob("*"))
    return [str(p) for p in produced if p.name.endswith((".tmp", ".ckpt"))]


def still_running(copy: Copy) -> list[list[str]]:
    """Programs that work in the copy, given some seconds to end."""
    until = time.monotonic() + 60
    while (found := chaos.processes(copy.folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return [chaos.command(number) for number in found]


@pytest.mark.slow
def test_the_mini_chain_survives_twenty_faults(built: Copy, work: Copy) -> None:
    """The data and their tokens are those of the built chain; all later jobs run here."""
    shutil.rmtree(work.path("results"))
    chain = chain_of("mini", "mini-hazards", "mini-questions/train", steps=(6, 6))
    planned = moments(chain, SEED, runs=1, count=20)[0]
    print(f"chaos, seed {SEED}:", *planned, sep="\n  ")
    survives(built, work, chain, planned, MINI)


@pytest.mark.slow
@pytest.mark.skipif(not LARGE, reason="takes long: make chaos")
def test_the_embedded_chain_survives_twenty_faults(
    checkout: Callable[[Path], Copy], tmp_path: Path
) -> None:
    quiet = checkout(tmp_path / "quiet")
    done = quiet.snakemake(f"results/{LARGE}/sku/eval.json", "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    subject = f"results/{LARGE}/subject/train.jsonl"
    acquired = f"results/{LARGE}/sku/seed-0/acquired/train.jsonl"
    first, second = (quiet.path(log).read_bytes().count(b"\n") for log in (subject, acquired))
    chain = chain_of(str(LARGE), "hazards", "questions/train", steps=(first, second))
    planned = moments(chain, SEED, runs=1, count=20)[0]
    print(f"chaos, seed {SEED}:", *planned, sep="\n  ")
    survives(quiet, checkout(tmp_path / "disturbed"), chain, planned, ())
