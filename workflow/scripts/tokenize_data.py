"""Tokenize every part of a data set for a base model.

Not called tokenize.py: the folder of a running script is searched first for imports, and a file
of that name there would stand in for Python's own module.
"""

import json

from palimpsest.cli_args import parser, path
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    arguments = parser(__doc__, base=path, out=path)
    arguments.add_argument(
        "--dataset",
        type=path,
        required=True,
        help="folder of the data set, resources/datasets/<dataset>",
    )
    args = arguments.parse_args()
    from palimpsest.stages.tokenize import tokenize_dataset

    tokenize_dataset(json.loads(args.config), args.base, args.dataset, args.out)


if __name__ == "__main__":
    run_cli(main)
