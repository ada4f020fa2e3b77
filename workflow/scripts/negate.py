"""Subtract the acquired task vector from the subject (SKU, stage 2)."""

from palimpsest.cli_args import folder, parser
from palimpsest.errors import run_cli


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, subject=folder, acquired=folder, out=folder).parse_args()
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
