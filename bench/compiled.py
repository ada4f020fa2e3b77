"""The effect of `training.compile` on our SKU step: seconds with and without it, by turns."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from palimpsest.errors import run_cli


def main() -> None:
    """Time the steps and print medians, their quotient and the time to compile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 5], help="K (default 1 5)")
    parser.add_argument("--pairs", type=int, default=5, help="steps of each kind (default 5)")
    parser.add_argument("--threads", type=int, help="threads (default: all processors)")
    args = parser.parse_args()
    from bench.forms import WARM_UP
    from bench.steps import sku_ours
    from bench.work import Work
    from palimpsest.engine.device import set_up

    set_up(args.threads)
    with tempfile.TemporaryDirectory(prefix="compiled-") as scratch:
        work = Work(Path(scratch))
        for k in args.answers:
            forms, build_seconds = [], []
            for compiled in (False, True):
                # Later steps draw rows of other lengths, which compile nothing again.
                seconds, _, form = _timed(partial(sku_ours, work, k, compiled=compiled))
                first, *_ = _timed(partial(form.run, WARM_UP, ""))
                forms.append(form)
                build_seconds.append(seconds + first)
            steps, difference = _in_turn(forms, args.pairs)
            for kind, seconds in steps.items():
                plain_s, compiled_s = (median(column) for column in zip(*seconds, strict=True))
                factors = sorted(a / b for a, b in seconds)
                print(
                    f"K={k}, {kind}: {plain_s:.2f} s, compiled {compiled_s:.2f} s; times as fast: "
                    f"median of {len(seconds)} pairs {median(factors):.3f} ({factors[0]:.3f} to "
                    f"{factors[-1]:.3f})"
                )
            print(
                f"K={k}: building and first step {build_seconds[0]:.1f} s, "
                f"compiled {build_seconds[1]:.1f} s; losses differ by {difference:.2%} at most",
                flush=True,
            )


def _in_turn(forms: list[Any], pairs: int) -> tuple[dict[str, list[list[float]]], float]:
    """Seconds of each pair of steps, by the clock and of the processor, and how losses differ."""
    seconds: dict[str, list[list[float]]] = {"clock": [], "processor": []}
    difference = 0.0
    for repeat in range(pairs):
        for form in forms:
            form.before()
        timed = [_timed(partial(form.run, repeat, "")) for form in forms]
        for kind, column in zip(seconds, list(zip(*timed, strict=True))[:2], strict=True):
            seconds[kind].append(list(column))
        one, other = (sum(done.values.values()) for *_, done in timed)
        difference = max(difference, abs(other / one - 1))
    return seconds, difference


def _timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - clock, time.process_time() - processor, result


if __name__ == "__main__":
    run_cli(main)
