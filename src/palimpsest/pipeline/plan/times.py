"""Time of a job: as long as its last run here, or its work at the rate of the runs before it."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from palimpsest.metrics.cost import read_benchmark
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.stages import STAGES

STARTING = 8.0
"""Seconds to import torch and transformers and to load a small model."""

DOWNLOAD = 50e6
"""Bytes a second (an assumption)."""

CPU_RATE = 30e9
"""Operations a second of one processor core, where nothing was measured yet (an assumption)."""

GPU_RATE = 50e12
"""The same of a GPU (an assumption)."""


def benchmark_of(job: Job, folder: Path = Path("benchmarks")) -> Path:
    """Where Snakemake records a job's costs."""
    return folder / f"{STAGES[job.rule].place().format(**job.wildcards)}.jsonl"


def measured(job: Job) -> float | None:
    """Seconds of the job's last run on this machine, None if it never ran."""
    file = benchmark_of(job)
    if not file.is_file():
        return None
    lines = [float(line["s"]) for line in read_benchmark(file) if line.get("s")]
    return lines[-1] if lines else None


def rate_of(known: list[tuple[float, float]]) -> float | None:
    """Operations a second, from (work, seconds) of past runs."""
    rates = [work / (seconds - STARTING) for work, seconds in known if seconds > 1.5 * STARTING]
    return median(rates) if rates else None
