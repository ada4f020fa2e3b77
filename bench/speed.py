"""Time Palimpsest and plain forms of the same work.

Each form runs in another process, so that its memory can be measured. The forms of a piece run by
turns (A B A B ...), after one run of each that does not count. The program writes

  docs/performance.csv   every repeat: piece, form, size, repeat, wall_s, cpu_s, peak_mb, tokens
  docs/performance.json  the machine, and the results of each form
  docs/performance.md    the table between its two marks
  docs/performance.svg   speed compared with the plain form; docs/growth.svg: time against size

Only the rows of the pieces that run are replaced. All pieces take about 25 minutes on two cores,
8 GB of memory and 6 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError, did_you_mean, run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.pipeline.options import whole_number

WARM_UP = -1

Row = dict[str, Any]


def main() -> None:
    """Parse the command line, time, and write."""
    args = arguments()
    if args.pairs < 1:
        raise UserError("--pairs: at least 1")
    if not args.table:
        use_gpus(args.gpus, "bench")
    # Imported late, so that --help answers at once.
    from bench.machine import machine
    from bench.pieces import pieces
    from bench.summary import Record
    from bench.work import BASE, RESOURCES, data_used

    record = Record(args.out)
    if args.table:
        record.publish()
        return
    all_pieces = pieces()
    for name in args.pieces or all_pieces:
        if name not in all_pieces:
            raise UserError(f"--pieces: no piece '{name}'{did_you_mean(name, all_pieces)}")
    if not (RESOURCES / "models" / BASE / "manifest.json").exists():
        raise UserError(
            f"{RESOURCES / 'models' / BASE} is missing; run: "
            f"snakemake resources/models/{BASE}/manifest.json --cores all"
        )
    names = args.pieces or list(all_pieces)
    record.facts["data"] = data_used()
    for number, name in enumerate(names, 1):
        piece = all_pieces[name]
        pairs = min(args.pairs, piece.pairs or args.pairs)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=args.scratch) as scratch:
            rows, facts = timed(name, piece, pairs, scratch, f"[{number}/{len(names)}] {name}")
        record.replace(name, rows, facts, machine())
        record.publish()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pieces",
        nargs="+",
        metavar="NAME",
        help="sku-k5, sku-k1, npo, npo-short, localize, rmu, negate, metrics, generate, machine, "
        "growth (default: all)",
    )
    parser.add_argument(
        "--pairs",
        type=whole_number,
        default=5,
        metavar="N",
        help="repeats of each form (default 5; the longest pieces make 2 or 3)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), metavar="DIR", help="default: docs"
    )
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="for large files (default: that of the system)"
    )
    parser.add_argument(
        "--table", action="store_true", help="time nothing: renew table and plots from the csv"
    )
    parser.add_argument(
        "--gpus",
        type=whole_number,
        metavar="N",
        help="GPUs to lease (default: all that are visible)",
    )
    return parser.parse_args()


def timed(
    name: str, piece: Any, pairs: int, scratch: str, label: str
) -> tuple[list[Row], dict[str, Any]]:
    """Rows of one piece, and the facts that its forms report."""
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        workers = {}
        facts = {}
        note(f"{label}  loads {', '.join(piece.forms)}")
        for form in piece.forms:
            workers[form] = stack.enter_context(worker(name, form, scratch))
            if piece.one_by_one:
                facts[form] = workers[form].read()
        for form in piece.forms.keys() - facts.keys():
            facts[form] = workers[form].read()
        for form, process in workers.items():
            note(f"{label}  {form}: warms up")
            process.run(WARM_UP, piece.sizes[0])
        for repeat in range(pairs):
            for size in piece.sizes:
                for form, process in workers.items():
                    result = process.run(repeat, size)
                    note(f"{label}  {form} {size} {repeat + 1}/{pairs}: {result['wall_s']:.3g} s")
                    if repeat == 0 and size == piece.sizes[0]:
                        facts[form]["values"] = result["values"]
                    rows.append(
                        {
                            "piece": name,
                            "form": form,
                            "size": size,
                            "repeat": repeat,
                            "wall_s": round(result["wall_s"], 4),
                            "cpu_s": round(result["cpu_s"], 4),
                            "peak_mb": round(result["peak_mb"], 1),
                            "tokens": result["tokens"],
                        }
                    )
        # This comes last: counting takes time, and memory that the process does not free.
        for form, process in workers.items():
            note(f"{label}  {form}: counts its matrix products")
            result = process.run(WARM_UP, piece.sizes[0], count=True)
            facts[form]["products_gflop"] = result["products_gflop"]
    return rows, facts


class Worker:
    """A form in another process."""

    def __init__(self, process: subprocess.Popen[str], log: Path, name: str) -> None:
        self._process, self._log, self._name = process, log, name

    def run(self, repeat: int, size: str, count: bool = False) -> dict[str, Any]:
        """One run of the form."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([repeat, size, count]) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next message of the form; the first one has facts about itself."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            last = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise UserError(f"{self._name} ended with status {code}; it printed:\n{last}")
        message: dict[str, Any] = json.loads(line)
        return message


@contextlib.contextmanager
def worker(name: str, form: str, scratch: str) -> Iterator[Worker]:
    """Start a form, and end it afterwards."""
    log = Path(scratch) / f"{name}.{form}.txt"
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "bench.worker", name, form, scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            yield Worker(process, log, f"{name}, {form}")
        finally:
            process.kill()


def note(text: str) -> None:
    """A progress line."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_cli(main)
