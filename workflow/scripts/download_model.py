"""Fetch a base model into a Hugging Face folder of safetensors."""

import functools
import json

from palimpsest.cli_args import parser, path
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, out=path).parse_args()
    from palimpsest.stages.download_model import download_model

    download_model(json.loads(args.config), args.out, functools.partial(print, flush=True))


if __name__ == "__main__":
    run_cli(main)
