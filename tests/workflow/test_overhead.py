"""What Snakemake and the jobs without a model import."""

from __future__ import annotations

import re

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
TABLES = {"scipy", "datasets"}
"""Packages that take tenths of a second; pandas and its pyarrow are imported by Snakemake."""


def imported(printed: str) -> set[str]:
    """Packages that Python lists with PYTHONPROFILEIMPORTTIME."""
    return set(re.findall(r"^import time: .*\| +(\w+)$", printed, re.MULTILINE))


def test_an_unchanged_target_imports_no_model_package(built: Copy) -> None:
    watched = Copy(built.folder, {**built.env, "PYTHONPROFILEIMPORTTIME": "1"})
    done = watched.snakemake(RESULT, *MINI, "--cores", "all")
    assert NOTHING in done.stdout + done.stderr
    assert {"snakemake", "palimpsest", "pydantic"} <= imported(done.stderr)
    assert imported(done.stderr) & (MODELS | TABLES) == set()


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
    """Their logs list what Python imports."""
    watched = Copy(work.folder, {**work.env, "PYTHONPROFILEIMPORTTIME": "1"})
    done = watched.snakemake(*targets, *MINI, "--cores", "all", "--forcerun", *forced)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {job.split()[0] for job in jobs(done.stdout + done.stderr)}
    assert rules <= ran
    for rule in rules:
        logs = work.path(f"logs/{rule}").rglob("*.log")
        newest = max(logs, key=lambda log: log.stat().st_mtime_ns)
        found = imported(newest.read_text(encoding="utf-8"))
        assert "palimpsest" in found, newest
        assert found & MODELS == set(), newest
