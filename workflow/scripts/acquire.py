"""Train the adapter whose task vector is subtracted afterwards (SKU, stage 1)."""

import json

from palimpsest.cli_args import parser, path
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(
        __doc__, free=json.loads, base=path, subject=path, tokens=path, reference=path, out=path
    ).parse_args()
    from palimpsest.stages.acquire import acquire

    acquire(
        json.loads(args.config),
        args.free,
        args.base,
        args.subject,
        args.tokens,
        args.reference,
        args.out,
        args.label,
        args.threads,
    )


if __name__ == "__main__":
    run_cli(main)
