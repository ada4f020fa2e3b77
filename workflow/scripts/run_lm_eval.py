"""Ask a model the multiple-choice and other tasks of lm-eval: general ability, or our own parts."""

import os

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
        datasets=path,
        out=folder,
        batch_rows=int,
        batch_tokens=int,
    ).parse_args()
    write_once(args.out / "lm_eval.json")
    use_gpus(args.gpus, args.label)
    # lm-eval's moving bars would fill the log; read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from palimpsest.stages.lm_eval import run_tasks

    run_tasks(
        args.config,
        args.base,
        args.model,
        args.datasets,
        args.out,
        args.label,
        args.batch_rows,
        args.batch_tokens,
        args.threads,
    )


if __name__ == "__main__":
    run_cli(main)
