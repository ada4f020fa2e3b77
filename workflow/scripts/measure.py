"""Run a model once over all evaluated rows: token likelihoods and answers."""

from palimpsest.cli_args import folder, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(
        __doc__,
        base=folder,
        model=folder,
        before=folder,
        tokens=path,
        datasets=path,
        out=folder,
        batch_rows=int,
        batch_tokens=int,
    ).parse_args()
    write_once(args.out / "measure.json")
    use_gpus(args.gpus, args.label)
    from palimpsest.stages.measure import Sizes, measure

    measure(
        args.config,
        args.base,
        args.model,
        args.before,
        args.tokens,
        args.datasets,
        args.out,
        args.label,
        Sizes(args.batch_rows, args.batch_tokens),
        args.threads,
    )


if __name__ == "__main__":
    run_cli(main)
