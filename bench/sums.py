"""Seconds of the processor that the jobs of a folder took, by stage.

    python -m bench.sums                     the jobs of benchmarks/ in this folder
    python -m bench.sums ../other/benchmarks

Snakemake measures each job (`cpu_time`, that of its whole process tree, and `s`, from its start to
its end). Where a job ran more than once, the last line counts.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path


def sums(folder: Path) -> dict[str, tuple[int, float, float]]:
    """Stage -> its jobs, their seconds of the processor, and their seconds."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for file in sorted(folder.rglob("*.jsonl")):
        last = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
        found[file.relative_to(folder).parts[0].removesuffix(".jsonl")].append(last)
    return {
        stage: (len(jobs), sum(job["cpu_time"] for job in jobs), sum(job["s"] for job in jobs))
        for stage, jobs in found.items()
    }


def main() -> None:
    """Print a line for each stage, most seconds first, and their sum."""
    stages = sums(Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks"))
    lines = sorted(stages.items(), key=lambda stage: -stage[1][1])
    jobs, cpus, times = zip(*stages.values(), strict=True)
    total = (sum(jobs), sum(cpus), sum(times))
    for stage, (count, cpu, seconds) in [*lines, ("all", total)]:
        print(f"{stage:16}{count:6}{cpu:10.0f}{seconds:10.0f}")


if __name__ == "__main__":
    main()
