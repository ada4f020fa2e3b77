"""What only a GPU can tell, in at most eight minutes: is the engine right, how fast, how large?

    python -m bench.gpu_check --out DIR            # on a machine with a GPU
    python -m bench.gpu_check --out DIR --tiny     # does the program work? also on a CPU

Nothing is downloaded: weights and rows are random, the settings are the catalog's. Each part runs
in a process of its own and writes each result at once, so a part that fails, hangs or runs out of
time leaves all other results. ``gpu_check.json`` has everything, ``gpu_check.md`` the tables for
docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Note = Callable[..., None]
"""Takes what was measured (``what``) and its figures, and writes them."""

SECONDS = 480.0
LEAST = 20.0
"""Seconds below which no further part begins."""

PARTS = {"machine": 60, "equal": 120, "speed-1b": 60, "speed-7b": 120, "speed-13b": 120}
PARTS |= {"answers": 90, "repeat": 60}
"""Part -> the seconds that it may take, in the order of their value."""

AIMS = {
    ("speed-7b", "sku"): ("peak_gb", 24.0),
    ("speed-13b", "sku"): ("peak_gb", 40.0),
    ("speed-7b", "rmu"): ("peak_gb", 20.0),
}
"""Measured piece -> the figure that counts, and what it must stay below."""

SHARE = 0.45
"""Least share of the matrix rate that the engine aims at."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts, or one of them within its own process."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="small models, on a CPU too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all parts")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--within", choices=PARTS, metavar="PART", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.within:
        from bench.gpu_parts import run_part

        run_part(args.within, args.tiny, writer(args.out / f"{args.within}.jsonl"))
        return

    def command(part: str) -> list[str]:
        options = ["--out", str(args.out), "--within", part, *(["--tiny"] if args.tiny else [])]
        return [sys.executable, "-m", "bench.gpu_check", *options]

    limits = {part: PARTS[part] for part in args.parts}
    results = collected(limits, command, args.out, args.seconds)
    (args.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
    text = tables(results)
    (args.out / "gpu_check.md").write_text(text)
    print(text)


def writer(file: Path) -> Note:
    """Appends each result to a file at once."""

    def note(what: str, **figures: Any) -> None:
        with file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"what": what, **figures}) + "\n")

    return note


def collected(
    limits: Mapping[str, float],
    command: Callable[[str], Sequence[str]],
    out: Path,
    seconds: float,
) -> dict[str, list[Result]]:
    """Run the parts one after the other; a fault of one is a result like any other.

    Args:
        limits: part -> the seconds that it may take.
        command: the command of a part, which writes ``<out>/<part>.jsonl``.
        out: folder of the results.
        seconds: time for all parts.

    Returns:
        Part -> its results; one without ``what`` says what went wrong.
    """
    ends = time.monotonic() + seconds
    results = {}
    for part, limit in limits.items():
        file = out / f"{part}.jsonl"
        file.unlink(missing_ok=True)
        left = min(limit, ends - time.monotonic())
        began = time.monotonic()
        fault = _run(command(part), left) if left >= min(LEAST, limit) else "no time was left"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        results[part] = [json.loads(line) for line in lines]
        if fault:
            results[part].append({"fault": fault})
        took = time.monotonic() - began
        print(f"{part}: {took:.0f} s, {len(lines)} results{fault and '; ' + fault}", flush=True)
    return results


def _run(command: Sequence[str], seconds: float) -> str:
    """Run a part; what went wrong, or an empty text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return lines[-1][:300]


def tables(results: Mapping[str, Sequence[Result]]) -> str:
    """The results as Markdown."""
    machine = next((r for r in results.get("machine", []) if r.get("what") == "machine"), {})
    rate = machine.get("matrix_tflops")
    lines = [
        f"GPU: {machine.get('gpu', 'unknown')}; torch {machine.get('torch', 'unknown')}; bf16 "
        f"products of {machine.get('size', 0)}: {_figure(rate)} TFLOP/s.",
        "",
        *_table(
            (
                "step",
                "tokens",
                "ms",
                "tokens/s",
                "share of the matrix rate",
                "GB",
                "planned",
                "aim",
            ),
            (_step(part, r, rate) for part, rs in results.items() for r in rs if "ms" in r),
        ),
        "",
        *_table(
            ("form", "error of costs", "error of gradients", "right"),
            (
                (r["what"], _figure(r["costs"]), _figure(r["gradients"]), _yes(r["right"]))
                for rs in results.values()
                for r in rs
                if "costs" in r
            ),
        ),
        "",
        *(
            f"- {part}: {r.get('fault') or ', '.join(f'{k} {v}' for k, v in r.items())}"
            for part, rs in results.items()
            for r in rs
            if not {"ms", "costs"} & set(r)
        ),
    ]
    return "\n".join(lines) + "\n"


def _step(part: str, result: Result, rate: float | None) -> tuple[str, ...]:
    key, most = AIMS.get((part, result["what"]), ("", 0.0))
    share = result["tflops"] / rate if result.get("tflops") and rate else None
    aims = [f"below {most:g} GB: {_yes(result[key] < most)}"] if key and result.get(key) else []
    if share is not None and part != "speed-1b":
        aims.append(f"at least {SHARE:.0%}: {_yes(share >= SHARE)}")
    return (
        f"{part.removeprefix('speed-')} {result['what']}",
        _figure(result["tokens"]),
        _figure(result["ms"]),
        _figure(1e3 * result["tokens"] / result["ms"]),
        "-" if share is None else f"{share:.0%}",
        _figure(result.get("peak_gb")),
        _figure(result.get("planned_gb")),
        "; ".join(aims) or "-",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    line = "| {} |".format
    body = [line(" | ".join(row)) for row in rows]
    return [line(" | ".join(head)), "|" + " --- |" * len(head), *body]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _yes(right: bool) -> str:
    return "yes" if right else "**no**"


if __name__ == "__main__":
    main()
