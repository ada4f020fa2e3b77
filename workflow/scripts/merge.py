"""Merge an unlearned model into a full Hugging Face folder."""

from palimpsest.cli_args import folder, parser
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, model=folder, out=folder).parse_args()
    write_once(args.out / "manifest.json")
    from palimpsest.stages.merge import merge

    merge(
        args.base,
        args.model,
        args.out,
        args.label,
    )


if __name__ == "__main__":
    run_cli(main)
