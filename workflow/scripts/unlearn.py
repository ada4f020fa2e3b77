"""Train the subject with a method's objective and describe the unlearned model."""

from palimpsest.cli_args import folder, json_object, maybe, maybe_folder, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.processes import several
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(
        __doc__,
        free=json_object,
        base=folder,
        subject=folder,
        tokens=path,
        reference=maybe_folder,
        examples=maybe_folder,
        region=maybe,
        out=folder,
    ).parse_args()
    write_once(args.out / "model.json")
    use_gpus(args.gpus, args.label)
    with several(args.free):
        from palimpsest.stages.method import Inputs
        from palimpsest.stages.unlearn import unlearn

        unlearn(
            args.config,
            args.free,
            Inputs(
                args.base,
                args.subject,
                args.tokens,
                args.reference,
                args.examples,
                args.region,
            ),
            args.out,
            args.label,
            args.threads,
        )


if __name__ == "__main__":
    run_cli(main)
