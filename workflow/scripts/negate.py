"""Subtract the acquired task vector from the subject (SKU, stage 2)."""

from palimpsest.cli_args import folder, parser
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, subject=folder, acquired=folder, out=folder).parse_args()
    write_once(args.out / "model.json")
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
