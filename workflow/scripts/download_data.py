"""Fetch a data set and write its parts in the normal schema; its name is the folder's."""

import json
from pathlib import Path

from palimpsest.cli_args import parser, path
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    arguments = parser(__doc__, out=path)
    arguments.add_argument(
        "--resources",
        type=path,
        default=Path("resources"),
        help="folder of resource: files (default: resources)",
    )
    args = arguments.parse_args()
    from palimpsest.stages.download_data import download_data

    download_data(json.loads(args.config), args.out, args.resources)


if __name__ == "__main__":
    run_cli(main)
