"""Describe the subject before unlearning in the form of every other model."""

from palimpsest.cli_args import folder, parser
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, subject=folder, out=folder).parse_args()
    write_once(args.out / "model.json")
    from palimpsest.stages.negate import original

    original(
        args.base,
        args.subject,
        args.out,
    )


if __name__ == "__main__":
    run_cli(main)
