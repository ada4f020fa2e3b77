"""Judge the answers to forbidden questions with a classifier or a chat model: judged.parquet."""

from palimpsest.cli_args import json_object, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, free=json_object, generations=path, datasets=path, out=path).parse_args()
    write_once(args.out)
    use_gpus(args.gpus, args.label)
    from palimpsest.stages.judge import judge

    found = judge(
        args.config,
        args.free,
        args.generations,
        args.datasets,
        args.out,
        args.label,
        args.threads,
    )
    print(f"{args.label}: {found}", flush=True)


if __name__ == "__main__":
    run_cli(main)
