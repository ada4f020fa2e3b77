"""What an answer costs beside the work: what is imported, and time of the processor."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kit.copies import MINI, Copy, jobs

pytestmark = pytest.mark.slow

RESULT = "results/mini/sku/eval.json"
COMPARED = "results/mini/sku/compare.json"
REPORT = "results/report.html"
TOKENS = "resources/tokens/smollm2-135m/mini-hazards/manifest.json"

NOTHING = "Nothing to be done"
MODELS = {"torch", "transformers", "peft", "accelerate"}
"""Packages that take seconds to import."""
TABLES = {"pandas", "pyarrow", "scipy", "datasets"}
"""Packages that take tenths of a second."""


def imported(told: str) -> set[str]:
    """Packages in what Python tells of its imports (PYTHONPROFILEIMPORTTIME)."""
    return set(re.findall(r"^import time: .*\| +(\w+)$", told, re.MULTILINE))


def spent(copy: Copy, *args: str) -> float:
    """Seconds of the processor that Snakemake takes to say that there is nothing to do."""
    before = os.times()
    done = copy.snakemake(*args, "--cores", "all")
    after = os.times()
    assert NOTHING in done.stdout + done.stderr, done.stdout + done.stderr
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def test_an_unchanged_target_imports_no_model_and_no_table_package(built: Copy) -> None:
    told = Copy(built.folder, {**built.env, "PYTHONPROFILEIMPORTTIME": "1"})
    done = told.snakemake(RESULT, *MINI, "--cores", "all")
    assert NOTHING in done.stdout + done.stderr
    assert {"snakemake", "palimpsest", "pydantic"} <= imported(done.stderr)
    assert imported(done.stderr) & (MODELS | TABLES) == set()


def test_an_unchanged_target_takes_less_than_three_times_snakemake_alone(
    built: Copy, tmp_path: Path
) -> None:
    """1.4 times on an idle machine. The least of two: other programs only ever add."""
    (tmp_path / "Snakefile").touch()
    empty = Copy(tmp_path)
    alone = min(spent(empty, "-n") for _ in range(2))
    ours = min(spent(built, RESULT, *MINI) for _ in range(2))
    print(f"\n{ours:.1f} s, Snakemake alone {alone:.1f} s of the processor")
    assert ours < 3 * alone


@pytest.mark.parametrize(
    ("targets", "forced", "rules"),
    [
        ([TOKENS], ["download_data", "tokenize"], {"download_data", "tokenize"}),
        ([COMPARED], [RESULT], {"score", "compare"}),
        ([REPORT], ["report"], {"report"}),
    ],
    ids=["tokenize", "compare", "report"],
)
def test_a_job_without_a_model_imports_no_model_package(
    work: Copy, targets: list[str], forced: list[str], rules: set[str]
) -> None:
    """Their logs, with what Python tells of its imports."""
    told = Copy(work.folder, {**work.env, "PYTHONPROFILEIMPORTTIME": "1"})
    done = told.snakemake(*targets, *MINI, "--cores", "all", "--forcerun", *forced)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {job.split()[0] for job in jobs(done.stdout + done.stderr)}
    assert rules <= ran
    for rule in rules:
        logs = [
            *work.path("logs").glob(f"{rule}/*mini*.log"),
            *work.path("logs").glob(f"{rule}.log"),
        ]
        newest = max(logs, key=lambda log: log.stat().st_mtime_ns)
        found = imported(newest.read_text(encoding="utf-8"))
        assert "palimpsest" in found, newest
        assert found & MODELS == set(), newest
