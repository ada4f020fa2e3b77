"""Subtract the acquired task vector from the subject (SKU, stage 2)."""

from palimpsest.cli_args import parser, path
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=path, subject=path, acquired=path, out=path).parse_args()
    from palimpsest.stages.negate import negate

    negate(
        args.config,
        args.base,
        args.subject,
        args.acquired,
        args.out,
    )


if __name__ == "__main__":
    run_cli(main)
