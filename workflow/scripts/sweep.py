"""Measure the forget-retain trade-off over lambda on validation rows."""

from palimpsest.cli_args import folder, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(
        __doc__,
        base=folder,
        subject=folder,
        acquired=folder,
        tokens=path,
        datasets=path,
        out=path,
        batch_rows=int,
        batch_tokens=int,
    ).parse_args()
    write_once(args.out)
    use_gpus(args.gpus, args.label)
    from palimpsest.stages.sweep import sweep

    sweep(
        args.config,
        args.base,
        args.subject,
        args.acquired,
        args.tokens,
        args.datasets,
        args.out,
        args.label,
        args.batch_rows,
        args.batch_tokens,
        args.threads,
    )


if __name__ == "__main__":
    run_cli(main)
