"""``palimpsest published``: a benchmark's published figures beside those measured here."""

from __future__ import annotations

import argparse
from pathlib import Path

from palimpsest.io.atomic import atomic_path

PAGES = Path("results/benchmarks")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    published = commands.add_parser(
        "published",
        help="lay a benchmark's published figures beside yours",
        description="Write results/benchmarks/NAME.html: what papers published, with source and "
        "tolerance, beside what results/ has. What was not measured here is named.",
        epilog="example: palimpsest published tofu",
    )
    published.add_argument(
        "names", nargs="*", metavar="NAME", help="tofu, muse, wmdp, rwku; without a name: all"
    )
    published.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the pages and print what they compare."""
    from palimpsest.report.published import benchmarks, lines, page, read_benchmark

    for name in args.names or benchmarks():
        benchmark = read_benchmark(name)
        PAGES.mkdir(parents=True, exist_ok=True)
        with atomic_path(PAGES / f"{name}.html") as temporary:
            Path(temporary).write_text(page(benchmark, Path("results")), encoding="utf-8")
        print(PAGES / f"{name}.html")
        for line in lines(benchmark, Path("results")):
            print(f"  {line}")
