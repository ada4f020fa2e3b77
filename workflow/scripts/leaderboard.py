"""Tune every method of the leaderboard alike; keep each finished line in docs/leaderboard.csv."""

import argparse
from pathlib import Path

from palimpsest.errors import UserError, run_cli


def main() -> None:
    """Parse the command line and compute what remains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--list", action="store_true", help="print what remains and the time it takes; run nothing"
    )
    parser.add_argument(
        "--limit-hours", type=float, metavar="H", help="begin no further line after H hours"
    )
    parser.add_argument("--cores", default="all", help="cores for Snakemake (default: all)")
    parser.add_argument(
        "--csv",
        type=Path,
        default=Path("docs/leaderboard.csv"),
        help="where the lines are kept (default: docs/leaderboard.csv)",
    )
    args = parser.parse_args()
    # Imported late, so that --help answers at once.
    from palimpsest.config.load import read_config
    from palimpsest.leaderboard import build
    from palimpsest.leaderboard.order import FILE, entries
    from palimpsest.leaderboard.page import remaining
    from palimpsest.leaderboard.rows import read

    cfg = read_config("config")
    if args.list:
        planned = entries(cfg)
        left = remaining(planned, read(args.csv))
        seconds = build.estimated(read_config("config", [FILE]), left, FILE)
        print(build.listing(left, len(planned), seconds))
        return
    failed = build.run(cfg, args.csv, build.snakemake(FILE, args.cores), args.limit_hours)
    if failed:
        names = ", ".join(f"{one.subject}/{one.name}" for one in failed)
        raise UserError(f"not finished, see above: {names}; the same command tries them again")


if __name__ == "__main__":
    run_cli(main)
