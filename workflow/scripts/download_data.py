"""Fetch a data set and write its parts in the normal schema."""

import argparse
import functools
from pathlib import Path

from palimpsest.cli_args import json_object
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config",
        required=True,
        type=json_object,
        metavar="JSON",
        help="the keys of datasets.<name>",
    )
    parser.add_argument(
        "--manifest",
        required=True,
        type=Path,
        help="manifest.json to write; its folder's name is the data set's",
    )
    parser.add_argument(
        "--resources",
        type=Path,
        default=Path("resources"),
        help="folder of resource: files (default: resources)",
    )
    args = parser.parse_args()
    write_once(args.manifest)
    from palimpsest.stages.download_data import download_data

    log = functools.partial(print, flush=True)
    download_data(args.config, args.manifest.parent, args.resources, log)


if __name__ == "__main__":
    run_cli(main)
