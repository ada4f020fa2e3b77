"""Fetch a base model into a Hugging Face folder of safetensors."""

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
        "--config", required=True, type=json_object, metavar="JSON", help="source, sha256, revision"
    )
    parser.add_argument(
        "--manifest",
        required=True,
        type=Path,
        help="manifest.json to write; its folder is the model",
    )
    args = parser.parse_args()
    write_once(args.manifest)
    from palimpsest.stages.download_model import download_model

    log = functools.partial(print, flush=True)
    download_model(args.config, args.manifest.parent, log)


if __name__ == "__main__":
    run_cli(main)
