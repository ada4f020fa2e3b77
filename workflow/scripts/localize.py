"""Knowledge localization: gradients on perturbed answers, per tensor of the subject's adapter."""

from palimpsest.cli_args import folder, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, base=folder, subject=folder, tokens=path, out=folder).parse_args()
    write_once(args.out / "manifest.json")
    use_gpus(args.gpus, args.label)
    from palimpsest.stages.localize import localize

    localize(
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
