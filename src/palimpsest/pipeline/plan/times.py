"""Time of a job: as long as its last run here, or its work at the rate of the runs before it."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from palimpsest.metrics.cost import read_benchmark
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.stages import STAGES

STARTING = 8.0
"""Seconds to import torch and transformers and to load a small model."""

LOADING = 1e9
"""Bytes of weights a second: read, compared with their hashes, moved (an assumption)."""

DOWNLOAD = 50e6
"""Bytes a second (an assumption)."""

CPU_RATE = 30e9
"""Operations a second of one processor core, where nothing was measured yet (an assumption)."""

GPU_RATE = 50e12
"""The same of a GPU of unknown kind (an assumption)."""

PRODUCTS = {
    (7, 5): 8e12,
    (8, 0): 312e12,
    (8, 6): 71e12,
    (8, 7): 42e12,
    (8, 9): 165e12,
    (9, 0): 989e12,
    (10, 0): 2250e12,
    (12, 0): 209e12,
}
"""Compute capability -> operations a second in matrix products, by the data sheets of T4 (fp32),
A100, RTX 3090, Orin, RTX 4090, H100, B200, RTX 5090 (bf16, dense, fp32 sums)."""

SHARE = 0.4
"""Share of that which a stage reaches (an assumption)."""


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
