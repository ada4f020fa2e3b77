"""Write a page of results (report.html, all_methods.html) and its tables from the evaluations."""

from __future__ import annotations

import argparse
from pathlib import Path

from palimpsest.cli_args import json_object
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the command line and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config",
        required=True,
        metavar="JSON",
        type=json_object,
        help="the report's slice of the configuration: "
        '{"report": {"models": {model: [methods]}, "examples": n}, "titles": {...}}',
    )
    parser.add_argument(
        "--results", required=True, type=Path, metavar="DIR", help="folder that holds the results"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="HTML", help="the page to write")
    parser.add_argument(
        "--tables", required=True, type=Path, metavar="DIR", help="folder for csv and parquet files"
    )
    args = parser.parse_args()
    write_once(args.out)
    # Imported late, so that --help answers at once.
    from palimpsest.stages.report import write_report

    write_report(args.config, args.results, args.out, args.tables)


if __name__ == "__main__":
    run_cli(main)
