"""The ``palimpsest`` command."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from palimpsest.config import Config, read_config
from palimpsest.errors import UserError, did_you_mean, memory_explained, run_cli
from palimpsest.io.artifacts import MODEL
from palimpsest.pipeline import runs
from palimpsest.pipeline.targets import target_faults


def main() -> None:
    """Run the command line."""
    run_cli(_main)


def _main() -> None:
    args = _parser().parse_args()
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="palimpsest",
        description="Look at models that have unlearned something. Snakemake builds them:"
        " `snakemake results/<model>/<method>/eval.json --cores all`.",
    )
    parser.add_argument(
        "--configfile", type=Path, action="append", default=[], help="overlay, as for snakemake"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ask = commands.add_parser(
        "ask",
        help="print a model's answers before and after unlearning",
        description="Print the greedy answer of a subject before and after unlearning.",
        epilog='example: palimpsest ask smollm2-135m sku "How is velmorite brewed?"',
    )
    ask.add_argument("model", help="subject: a file of config/subjects")
    ask.add_argument(
        "method",
        help="method (a key of config/methods.yaml), or a run: METHOD/seed-N/attacks/NAME",
    )
    ask.add_argument("prompt", help="the question")
    ask.add_argument("--seed", type=int, help="seed of the run (default: its first)")
    ask.add_argument(
        "--max-new-tokens", type=_positive, default=64, help="longest answer (default: 64)"
    )
    ask.set_defaults(run=_ask)
    _add_plan(commands)
    return parser


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="print what a target would need: memory, disk, time, what is cached; runs nothing",
        description="Print for every stage of a target the device memory, main memory, disk and "
        "time that it would need, and whether its result is there already. Nothing runs, and "
        "nothing is downloaded or written.",
        epilog="examples: palimpsest plan results/llama2-13b/sku/eval.json; "
        "palimpsest plan results/mini/sku/eval.json --configfile config/test/mini.yaml; "
        "palimpsest plan --config 'measure={batch_tokens: 512}'. "
        "Memory is computed from the model's shape, the settings and the rows (docs/stages.md).",
    )
    plan.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="files or rules, as for snakemake (default: its default target, results/report.html)",
    )
    plan.add_argument(
        "--configfile",
        type=Path,
        action="append",
        default=[],
        dest="overlays",
        help="overlay, as for snakemake; may be given several times",
    )
    plan.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, as for snakemake; may be given several times",
    )
    plan.set_defaults(run=_plan)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, not '{text}'")
    return int(text)


def _plan(args: argparse.Namespace) -> None:
    from palimpsest.pipeline.plan.estimate import plan
    from palimpsest.pipeline.plan.jobs import jobs_of
    from palimpsest.pipeline.plan.machine import this_machine
    from palimpsest.pipeline.plan.table import text_of

    overlays = [*args.configfile, *args.overlays]
    cfg = read_config(overlays=overlays, settings=args.config)
    options = ["--configfile", *map(str, overlays)] if overlays else []
    options += ["--config", *args.config] if args.config else []
    print(text_of(plan(cfg, jobs_of(args.targets, options), this_machine()), cfg))


def _ask(args: argparse.Namespace) -> None:
    cfg = read_config(overlays=args.configfile)
    run = _checked_run(args, cfg)
    if not args.prompt.strip():
        raise UserError("the prompt is empty")
    folders = {
        "before (original)": runs.model_folder(args.model, "original/seed-0"),
        f"after ({args.method})": runs.model_folder(args.model, run),
    }
    _refuse_missing(args, run, [str(folder / MODEL) for folder in folders.values()])
    from palimpsest.machines.lease import use_gpus

    use_gpus(1, f"palimpsest ask {args.model} {args.method}")
    from palimpsest.measuring.ask import answers

    base = cfg.models[args.model].base
    with memory_explained("End what else uses it, or ask on the CPU: PALIMPSEST_DEVICE=cpu"):
        texts = answers(
            Path("resources/models") / base,
            cfg.bases[base],
            folders,
            args.prompt,
            args.max_new_tokens,
        )
    for heading, text in texts.items():
        print(f"{heading}:")
        print(textwrap.indent(textwrap.fill(text or "(empty answer)", 76), "    "))


def _checked_run(args: argparse.Namespace, cfg: Config) -> str:
    """The run that is asked for: a method's, or the one that was named."""
    run: str = args.method.strip("/")
    if "/" in run and args.seed is not None:
        raise UserError(f"{run} is one run; --seed chooses among those of a method")
    if "/" not in run:
        valid = run in cfg.method_names() and args.model in cfg.models
        seeds = cfg.seeds(run, args.model) if valid else [0]
        run += f"/seed-{seeds[0] if args.seed is None else args.seed}"
    for fault in target_faults(str(runs.model_folder(args.model, run) / MODEL), cfg):
        raise UserError(fault)
    if not runs.RUN.fullmatch(run):
        raise UserError(
            f"'{args.method}' is no run: METHOD, METHOD/seed-N or METHOD/seed-N/attacks/NAME"
        )
    return run


def _refuse_missing(args: argparse.Namespace, run: str, files: Sequence[str]) -> None:
    """Stop if one of the models is not built; say how it is, or which run may be meant."""
    derived = run.count("/") > 1
    *_, last = files
    for file in files:
        if Path(file).exists():
            continue
        if derived and file == last:
            # How a derived run is built depends on what it is.
            raise UserError(f"{file} is not built{did_you_mean(run, runs.runs_of(args.model))}")
        overlays = ["--configfile", *map(str, args.configfile)] if args.configfile else []
        targets = [name for name in files if not (derived and name == last)]
        command = shlex.join(["snakemake", *targets, *overlays, "--cores", "all"])
        raise UserError(f"{file} is not built yet: {command}")


if __name__ == "__main__":
    main()
