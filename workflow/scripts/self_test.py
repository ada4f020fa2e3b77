"""Renew the self-test of docs/metrics.md from the results of a subject."""

import argparse
from pathlib import Path

from palimpsest.errors import run_cli
from palimpsest.io import markdown
from palimpsest.io.atomic import write_text
from palimpsest.io.tables import read_table
from palimpsest.report.results_tables import marks
from palimpsest.report.self_test import read_rows, self_test_table


def main() -> None:
    """Parse the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", required=True, type=Path, metavar="DIR", help="folder of the subject's results"
    )
    parser.add_argument(
        "--page", required=True, type=Path, metavar="MD", help="the page whose table is renewed"
    )
    args = parser.parse_args()
    others = {name: read_rows(args.results, name) for name in ("retrained", "base")}
    sweeps = {}
    if (path := args.results.parent / "tables" / "sweep.parquet").is_file():
        swept = read_table(path)[0].to_pandas()
        swept = swept[swept["model"] == args.results.name]
        sweeps = {str(method): rows for method, rows in swept.groupby("method")}
    made = self_test_table(read_rows(args.results, "original"), others, sweeps)
    text = args.page.read_text(encoding="utf-8")
    write_text(args.page, markdown.renewed(args.page, text, marks("self-test"), made))


if __name__ == "__main__":
    run_cli(main)
