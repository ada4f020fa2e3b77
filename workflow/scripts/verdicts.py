"""Print a line for each verdict; with --strict fail unless every method passes."""

import argparse
from pathlib import Path

from palimpsest.errors import run_cli


def main() -> None:
    """Parse the command line and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--verdicts",
        nargs="*",
        required=True,
        type=Path,
        metavar="JSON",
        help="verdict.json of each method",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if a method does not pass; original and retrained are there for comparison",
    )
    args = parser.parse_args()
    # Imported late, so that --help answers at once.
    from palimpsest.stages.verdict import print_all

    print_all(args.verdicts, args.strict)


if __name__ == "__main__":
    run_cli(main)
