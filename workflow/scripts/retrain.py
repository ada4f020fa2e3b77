"""The gold standard: the base model, pretrained on what is to be kept alone."""

from palimpsest.cli_args import folder, json_object, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.processes import several
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, free=json_object, base=folder, tokens=path, out=folder).parse_args()
    write_once(args.out / "model.json")
    use_gpus(args.gpus, args.label)
    with several(args.free):
        from palimpsest.stages.pretrain import retrain

        retrain(
            args.config,
            args.free,
            args.base,
            args.tokens,
            args.out,
            args.label,
            args.threads,
        )


if __name__ == "__main__":
    run_cli(main)
