"""Renew a table of docs/results.md from evaluations on published data."""

import argparse
from pathlib import Path

from palimpsest.errors import run_cli
from palimpsest.report.results_tables import TABLES, write_table


def main() -> None:
    """Parse the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", required=True, type=Path, metavar="DIR", help="folder of the subject's results"
    )
    parser.add_argument(
        "--page", required=True, type=Path, metavar="MD", help="the page whose table is renewed"
    )
    parser.add_argument("--configfile", type=Path, metavar="YAML", help="overlay with the subject")
    parser.add_argument(
        "--table",
        required=True,
        choices=TABLES,
        help="knowundo: forgetting on its privacy set; truthfulqa: general ability beside it; "
        "tofu: forget quality and utility; methods: each on the embedded hazards",
    )
    args = parser.parse_args()
    # Imported late, so that --help answers at once.
    from palimpsest.config.load import read_config

    cfg = read_config("config", [args.configfile] if args.configfile else [])
    methods = cfg.shown("all_methods")[args.results.name]
    titles = {name: cfg.methods[name].title or name for name in methods if name in cfg.methods}
    titles |= {
        "base": "base model (before pretraining)",
        "original": "original (after pretraining)",
    }
    evaluations = {m: args.results / m / "eval.json" for m in methods}
    write_table(args.page, args.table, evaluations, titles)


if __name__ == "__main__":
    run_cli(main)
