"""Tokenize every part of a data set for a base model."""

# Not called tokenize.py: the folder of a running script is searched first for imports, and a file
# of that name there would stand in for Python's own module.

import argparse
from pathlib import Path

from palimpsest.cli_args import json_object
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", required=True, type=json_object, metavar="JSON", help="template, parts"
    )
    parser.add_argument("--model", required=True, type=Path, help="manifest.json of the base model")
    parser.add_argument("--data", required=True, type=Path, help="manifest.json of the data set")
    parser.add_argument(
        "--manifest", required=True, type=Path, help="manifest.json to write, beside the tables"
    )
    args = parser.parse_args()
    write_once(args.manifest)
    from palimpsest.stages.tokenize import tokenize_dataset

    tokenize_dataset(args.config, args.model.parent, args.data.parent, args.manifest.parent)


if __name__ == "__main__":
    run_cli(main)
