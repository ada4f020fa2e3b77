"""Make training examples: rows with other labels, or a mixture of two sets."""

from palimpsest.cli_args import folder, maybe_folder, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, subject=maybe_folder, tokens=path, out=folder).parse_args()
    write_once(args.out / "manifest.json")
    use_gpus(args.gpus, args.label)
    from palimpsest.stages.examples import examples

    examples(
        args.config,
        args.base,
        args.subject,
        args.tokens,
        args.out,
        args.label,
        args.threads,
    )


if __name__ == "__main__":
    run_cli(main)
