"""``palimpsest plan`` beside the real Snakemake: what is cached, and memory as it was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.copies import MINI, Copy
from palimpsest.config import read_config
from palimpsest.metrics.cost import read_benchmark
from palimpsest.pipeline.plan.estimate import plan
from palimpsest.pipeline.plan.jobs import jobs_of
from palimpsest.pipeline.plan.machine import this_machine
from palimpsest.pipeline.plan.times import benchmark_of
from palimpsest.pipeline.results import slice_of

pytestmark = pytest.mark.slow

OVERLAY = "config/test/mini.yaml"
MB = 1 << 20


def told(copy: Copy, *args: str) -> subprocess.CompletedProcess[str]:
    return copy.run("palimpsest", "plan", *args)


def state(copy: Copy) -> dict[str, tuple[int, int]]:
    """Size and date of every file that is not Snakemake's own."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in copy.folder.rglob("*")
        if path.is_file() and not {".snakemake", "__pycache__"} & set(path.parts)
    }


def test_a_finished_chain_is_cached_and_nothing_is_touched(built: Copy) -> None:
    before = state(built)
    done = told(built, *MINI)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do: every result is there." in done.stdout
    assert "acquire" in done.stdout
    assert " missing" not in done.stdout
    assert state(built) == before


def test_a_changed_value_shows_what_depends_on_it(built: Copy) -> None:
    changed = "models={mini: {methods: {sku: {scale: 0.75}}}}"
    done = told(built, "results/mini/sku/eval.json", *MINI, "--config", changed)
    assert done.returncode == 0, done.stderr
    states = {line.split()[0]: line for line in done.stdout.splitlines() if "mini/sku" in line}
    assert states["negate"].endswith("params changed")
    assert states["measure"].endswith("inputs change")
    assert states["acquire"].endswith("cached")
    assert "3 jobs would run" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["results/mini/skuu/eval.json", *MINI], "no method 'skuu' in the configuration"),
        (["results/mini/sku/nothing.json", *MINI], "results/mini/sku/nothing.json"),
        (["--config", "measure"], "--config"),
        (["--configfile", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=["method", "file", "setting", "overlay"],
)
def test_a_mistake_is_answered_without_a_traceback(built: Copy, args: list[str], said: str) -> None:
    done = told(built, *args)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_memory_is_within_a_quarter_of_what_was_measured(
    built: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built.folder)
    cfg = read_config(overlays=[OVERLAY])
    lines = plan(cfg, jobs_of([], ["--configfile", OVERLAY]), this_machine()).lines
    estimated: dict[str, float] = {}
    found: dict[str, float] = {}
    for line in lines:
        rule = line.job.rule
        if line.needs is not None and line.needs.work:
            estimated[rule] = max(estimated.get(rule, 0), line.needs.ram / MB)
            # Snakemake looks twice a second, later every 30: of equal jobs the larger is nearer.
            found[rule] = max(found.get(rule, 0), measured(built, line.job, tmp_path))
    assert set(found) == {"pretrain", "reference", "acquire", "measure", "sweep"}
    # Every one of them loads the model, which takes most where it is converted to bfloat16.
    loading = peak_of(built, "-c", LOAD)
    found = {rule: max(peak, loading) for rule, peak in found.items()}
    compared = {rule: estimated[rule] / found[rule] for rule in found}
    assert all(0.75 <= ratio <= 1.25 for ratio in compared.values()), (compared, found)


def measured(built: Copy, job, tmp_path: Path) -> float:
    """Peak memory of a job in MB."""
    if job.rule == "measure":
        return float(json.loads((job.folder / "measure.json").read_text())["peak_rss_mb"])
    if job.rule == "reference":
        return peak_of_reference(built, tmp_path)
    return float(read_benchmark(benchmark_of(job))[-1]["max_rss"])


def peak_of_reference(built: Copy, tmp_path: Path) -> float:
    """The job takes seconds, and Snakemake looks every half second: too seldom for its peak."""
    part = {"dataset": "mini-questions", "part": "train", "kind": "states"}
    config = slice_of("reference", read_config(overlays=[OVERLAY]), model="mini", **part)
    return peak_of(
        built,
        *("workflow/scripts/stage.py", "reference", "--config", config),
        *("--base", "resources/models/smollm2-135m", "--subject", "results/mini/subject"),
        *("--tokens", "resources/tokens/smollm2-135m", "--out", str(tmp_path / "reference")),
        *("--label", "reference", "--threads", "1", "--gpus", "0"),
    )


LOAD = """
from pathlib import Path
import palimpsest.stages.pretrain
from palimpsest.engine.device import set_up
from palimpsest.model.base import load_base
load_base(Path("resources/models/smollm2-135m"), "auto", set_up(1))
"""


def peak_of(built: Copy, *command: str) -> float:
    """Peak memory of a Python program in MB."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=built.folder,
        env={**built.environment(), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024
