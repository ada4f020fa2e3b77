"""Runs repeats of one form on request, and reports the cost of each."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.forms import Form
from bench.pieces import pieces
from bench.work import Work
from palimpsest.errors import run_cli


def main() -> None:
    """Build the form, then answer each ``[repeat, size, count]`` on stdin with a line of JSON."""
    name, form_name, scratch = sys.argv[1:]
    # Output of the program must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    form = pieces()[name].forms[form_name](Work(Path(scratch)))
    print(json.dumps({"loaded_mb": resident_mb(), **form.facts}), file=answers)
    for line in sys.stdin:
        print(json.dumps(timed(form, *json.loads(line))), file=answers)


def timed(form: Form, repeat: int, size: str, count: bool) -> dict[str, Any]:
    """Run the form once; `count` its operations, or time it."""
    form.before()
    reset_peak()
    began, cpu_before = time.perf_counter(), cpu_seconds()
    counter = FlopCounterMode(display=False) if count else None
    with counter or contextlib.nullcontext():
        done = form.run(repeat, size)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu_before
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": peak_mb(),
        "tokens": done.tokens,
        "products_gflop": counter.get_total_flops() / 1e9 if counter else None,
        "values": done.values,
    }


def cpu_seconds() -> float:
    """Seconds of the processor that this process has used, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Memory in use now."""
    return _status("VmRSS")


def peak_mb() -> float:
    """Most memory since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the peak of memory (Linux; elsewhere it stays that of the whole process)."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _status(key: str) -> float:
    file = Path("/proc/self/status")
    if not file.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


if __name__ == "__main__":
    run_cli(main)
