"""The overhead of the pipeline: an unchanged target, and each job of the mini subject.

    python -m bench.pipeline                        builds the mini subject in a new folder
    python -m bench.pipeline --built DIR TARGET     also runs a built target in DIR

Jobs run one at a time. A job's overhead is all the time between the end of the job before it and
its own end, less imports, model load and computing. So it has the work of Snakemake between two
jobs, the shell, Python's start and end, locks, hashes and seals. Its parts:

- ``between``: from the end of one shell command to the start of the next: Snakemake's bookkeeping;
- ``around``: the part of the shell command (Snakemake's benchmark) outside the Python program:
  bash, tee, the start and the end of the interpreter;
- ``start`` and ``checks``: see `job_clock`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from bench.job_clock import FILE  # noqa: E402
from bench.timings import COLUMNS  # noqa: E402
from kit.copies import MINI, Copy, check_out  # noqa: E402

TABLE = HERE.parent / "docs/performance.csv"
PIECE = "pipeline"
TARGET = "results/mini/sku/eval.json"
PAGES = ("results/report.html", "results/all_methods.html")
NOTHING = "Nothing to be done"


@dataclass(frozen=True)
class Run:
    """A finished program: seconds, seconds of the processor, peak memory in MB, its output."""

    wall: float
    cpu: float
    peak: float
    printed: str


@dataclass(frozen=True)
class Job:
    """A job of the mini subject: seconds of its parts, all of which are overhead but the last."""

    rule: str
    name: str
    between: float
    around: float
    start: float
    checks: float
    work: float
    """Imports, model load, computing."""

    @property
    def overhead(self) -> float:
        """Seconds beyond imports, model load and computing."""
        return self.between + self.around + self.start + self.checks


def run(copy: Copy, *command: str) -> Run:
    """Run a program in a working copy.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=copy.folder, env=copy.environment(), stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if status:
        sys.exit(f"error: {' '.join(command)} failed:\n{printed}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed)


def unchanged(copy: Copy, repeats: int, *args: str) -> list[Run]:
    """Run Snakemake several times for a built target.

    Raises:
        SystemExit: the target was not built.
    """
    runs = [run(copy, "snakemake", *args, "--cores", "all") for _ in range(repeats)]
    if not all(NOTHING in run_.printed for run_ in runs):
        sys.exit(f"error: {args[0]} is not built in {copy.folder}:\n{runs[0].printed}")
    return runs


def bare(copy: Copy, repeats: int) -> list[Run]:
    """Snakemake with an empty Snakefile: the part that is not ours."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").touch()
        empty = Copy(Path(folder))
        return [run(empty, "snakemake", "-n", "--cores", "all") for _ in range(repeats)]


def build(copy: Copy) -> list[Job]:
    """Build the mini subject's pages, one job at a time, with a clock in each job."""
    with tempfile.TemporaryDirectory() as folder:
        clocks = Path(folder) / "jobs.jsonl"
        (Path(folder) / "sitecustomize.py").write_text("import job_clock\n", encoding="utf-8")
        paths = os.pathsep.join([folder, str(HERE), str(copy.path("src"))])
        watched = Copy(copy.folder, {"PYTHONPATH": paths, FILE: str(clocks)})
        run(watched, "snakemake", *PAGES, *MINI, "--cores", "1")
        lines = [json.loads(line) for line in clocks.read_text(encoding="utf-8").splitlines()]
    return list(jobs(lines, copy.path("benchmarks")))


def jobs(clocks: Sequence[dict], benchmarks: Path) -> Iterable[Job]:
    """Pair each job's clock with Snakemake's benchmark of it; both are in the jobs' order."""
    files = sorted(benchmarks.rglob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    ended = None
    for clock, file in zip(clocks, files, strict=True):
        seconds = json.loads(file.read_text(encoding="utf-8"))["s"]
        wall = {name: clock["wall"].get(name, 0.0) for name in ("start", "checks")}
        work = clock["wall"].get("imports", 0.0) + clock["wall"].get("work", 0.0)
        # Before the first job Snakemake plans, which the unchanged target measures.
        between = 0.0 if ended is None else clock["began"] - ended
        around = seconds - (clock["ended"] - clock["began"])
        # The folder of a stage (`Stage.place`), then what the job is about.
        rule, *about = file.relative_to(benchmarks).with_suffix("").parts
        yield Job(rule, "/".join(about), between, around, **wall, work=work)
        ended = clock["began"] + seconds


def rows(form: str, size: str, runs: Iterable[Run]) -> list[dict]:
    """Rows of the table."""
    return [
        {
            **dict.fromkeys(COLUMNS, ""),
            **{"piece": PIECE, "form": form, "size": size, "repeat": number},
            **{
                "wall_s": f"{run_.wall:.3f}",
                "cpu_s": f"{run_.cpu:.3f}",
                "peak_mb": f"{run_.peak:.0f}",
            },
        }
        for number, run_ in enumerate(runs, start=1)
    ]


def job_rows(measured_jobs: Iterable[Job]) -> list[dict]:
    """Rows of the table; ``wall_s`` is the overhead alone."""
    common = dict.fromkeys(COLUMNS, "") | {"piece": PIECE, "repeat": 1}
    return [
        common | {"form": f"job:{job.rule}", "size": job.name, "wall_s": f"{job.overhead:.3f}"}
        for job in measured_jobs
    ]


def replace_rows(table: Path, new: Iterable[dict]) -> None:
    """Write the rows of this piece in place of older ones; those of other pieces stay."""
    other_rows: list[dict] = []
    if table.exists():
        with open(table, newline="", encoding="utf-8") as lines:
            other_rows = [row for row in csv.DictReader(lines) if row["piece"] != PIECE]
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table, "w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*other_rows, *new])


def print_jobs(timed: Sequence[Job]) -> None:
    """Print the slowest job of each rule, part by part."""
    parts = ("between", "around", "start", "checks", "overhead", "work")
    print("\n" + "rule".ljust(20) + "jobs" + "".join(part.rjust(10) for part in parts))
    for rule in dict.fromkeys(job.rule for job in timed):
        same = [job for job in timed if job.rule == rule]
        worst = max(same, key=lambda job: job.overhead)
        numbers = "".join(f"{getattr(worst, part):10.2f}" for part in parts)
        print(f"{rule:20}{len(same):4}{numbers}")
    print(f"{len(timed)} jobs; overhead: median {median(j.overhead for j in timed):.2f} s")


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each unchanged target")
    parser.add_argument("--folder", type=Path, help="new folder to build in (a temporary one)")
    parser.add_argument(
        "--built", nargs=2, metavar=("DIR", "TARGET"), help="a target that is built in a folder"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="csv file whose rows to replace")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        copy = check_out(args.folder or Path(temporary) / "repo")
        built_jobs = build(copy)
        print_jobs(built_jobs)
        measured = [("bare", "empty", bare(copy, args.repeats))]
        for target in (TARGET, PAGES[1]):
            measured.append(("unchanged", target, unchanged(copy, args.repeats, target, *MINI)))
        if args.built:
            folder, target = args.built
            runs = unchanged(Copy(Path(folder)), args.repeats, target)
            measured.append(("unchanged", target, runs))
    print("\n" + "unchanged".ljust(44) + "wall".rjust(8) + "cpu".rjust(8) + "  s, medians")
    for _, size, runs in measured:
        wall, cpu = median(run_.wall for run_ in runs), median(run_.cpu for run_ in runs)
        print(f"{size:44}{wall:8.2f}{cpu:8.2f}")
    runs_rows = [row for form, size, runs in measured for row in rows(form, size, runs)]
    replace_rows(args.table, [*runs_rows, *job_rows(built_jobs)])


if __name__ == "__main__":
    main()
