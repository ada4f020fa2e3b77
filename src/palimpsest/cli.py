"""The ``palimpsest`` command."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palimpsest import __version__
from palimpsest.config import Config, read_config
from palimpsest.errors import UserError, did_you_mean, memory_explained, run_cli
from palimpsest.home import home
from palimpsest.io.artifacts import MODEL
from palimpsest.pipeline import runs
from palimpsest.pipeline.launch import command, is_target, nested, rules
from palimpsest.pipeline.targets import target_faults, unsuited


def main() -> None:
    """Run the command line."""
    run_cli(_main)


def _main() -> None:
    words, after = _split(sys.argv[1:])
    args = _parser().parse_args(words)
    if after is not None:
        args.words = after
    args.run(args)


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The words up to ``run``, if that is the command, and those after it, which are Snakemake's.

    argparse cannot leave options to another program: it refuses those that it does not know.
    """
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 1 if "=" in words[place] else 2
    if list(words[place : place + 1]) != ["run"]:
        return list(words), None
    return list(words[: place + 1]), list(words[place + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="palimpsest",
        description="Look at models that have unlearned something. Snakemake builds them:"
        " `snakemake results/<model>/<method>/eval.json --cores all`.",
    )
    parser.add_argument("--version", action="version", version=f"palimpsest {__version__}")
    _add_settings(parser, "first_")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
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
    _add_settings(ask)
    ask.set_defaults(run=_ask)
    _add_plan(commands)
    _add_list(commands)
    _add_purge(commands)
    return parser


def _add_settings(parser: argparse.ArgumentParser, before: str = "") -> None:
    """The options of every command; they may also stand before it (`before` keeps those apart)."""
    options: dict[str, tuple[str, str, str]] = {
        "--configfile": ("overlays", "FILE", "overlays, as for snakemake"),
        "--config": ("config", "KEY=VALUE", "settings, as for snakemake"),
        "--set": ("set", "A.B=VALUE", "settings by their place: methods.sku.scale=2"),
    }
    # Before the command, more values would take the command for one of them.
    many: dict[str, Any] = {"action": "append"} if before else {"nargs": "+", "action": "extend"}
    for option, (name, metavar, text) in options.items():
        parser.add_argument(
            option,
            **many,
            default=[],
            dest=before + name,
            metavar=metavar,
            help=f"{text}; before or after the command",
        )


def _settings(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Overlays and ``--config`` words of a command, from both places where they may stand."""
    table = nested([*args.first_set, *args.set])
    config = [*args.first_config, *args.config, *(f"{k}={json.dumps(v)}" for k, v in table.items())]
    return [*args.first_overlays, *args.overlays], config


def _read(args: argparse.Namespace) -> Config:
    overlays, config = _settings(args)
    return read_config(overlays=overlays, settings=config)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="build targets with Snakemake; options in any order",
        description="Build targets with Snakemake. Targets and Snakemake's options may stand in "
        "any order. All cores and all GPUs that are found are used, unless options say otherwise.",
        epilog="example: palimpsest run results/smollm2-135m/sku/eval.json -n "
        "--set models.smollm2-135m.methods.sku.scale=2",
        usage="palimpsest run [TARGET or OPTION ...]",
    )
    run.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from snakemake.cli import main as snakemake  # slow to import

    if args.words in (["-h"], ["--help"]):
        _parser().parse_args(["run", "--help"])
    chosen, words = _cut(args.words, "--set")
    before = [*(["--configfile", *args.first_overlays] if args.first_overlays else [])]
    before += ["--config", *args.first_config] if args.first_config else []
    sys.argv = ["snakemake", *command([*words, *before], [*args.first_set, *chosen])]
    snakemake(sys.argv[1:])


def _cut(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Values of an option that is ours, and the other words: each has one value."""
    values, rest, words = list[str](), list[str](), list(words)
    while words:
        word = words.pop(0)
        if word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
        elif word == option:
            if not words:
                raise UserError(f"{option} needs a value: {option} methods.sku.scale=2")
            while words and re.match(r"[\w.\"-]+=", words[0]) and not words[0].startswith("-"):
                values.append(words.pop(0))
        else:
            rest.append(word)
    return values, rest


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listed = commands.add_parser(
        "list",
        help="print the names that a target can have: subjects, methods, parts",
        description="Print what the configuration names, a line each.",
        epilog="example: palimpsest list methods smollm2-135m",
    )
    listed.add_argument("what", nargs="?", choices=sorted(LISTS), default="subjects")
    listed.add_argument("model", nargs="?", help="with methods: those that suit this subject")
    _add_settings(listed)
    listed.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    cfg = _read(args)
    lines = LISTS[args.what](cfg)
    if args.model is not None:
        if args.what != "methods":
            raise UserError(f"a subject can only follow 'methods', not '{args.what}'")
        if args.model not in cfg.models:
            raise UserError(f"no subject '{args.model}'{did_you_mean(args.model, cfg.models)}")
        lines = {name: text for name, text in lines.items() if not unsuited(cfg, args.model, name)}
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}".rstrip())


LISTS: dict[str, Callable[[Config], dict[str, str]]] = {
    "bases": lambda cfg: {name: base.source for name, base in cfg.bases.items()},
    "subjects": lambda cfg: {
        name: model.title or cfg.scenarios[model.scenario].title
        for name, model in cfg.models.items()
    },
    "methods": lambda cfg: {
        name: cfg.methods[name].title if name in cfg.methods else "reference"
        for name in cfg.method_names()
    },
    "datasets": lambda cfg: {name: data.source for name, data in cfg.datasets.items()},
    "parts": lambda cfg: {
        f"{name}/{part}": "" for name, data in cfg.datasets.items() for part in data.parts
    },
    "scenarios": lambda cfg: {name: scenario.title for name, scenario in cfg.scenarios.items()},
}
"""What ``palimpsest list`` can print: name -> a few words on it."""


def _add_purge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    purge = commands.add_parser(
        "purge",
        help="remove a data set and what was made of it",
        description="Remove a data set and what was made of it: tables, tokens, the results, logs "
        "and costs of every subject that reads it, and the pages. Unlearned models in merged/ "
        "stay. It lists all of it first and asks. docs/remains.md says what it cannot reach.",
    )
    purge.add_argument("dataset", help="key of datasets")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    _add_settings(purge)
    purge.set_defaults(run=_purge)


def _purge(args: argparse.Namespace) -> None:
    from palimpsest.pipeline.purge import left_of, made_of, remove

    cfg = _read(args)
    if args.dataset not in cfg.datasets:
        raise UserError(f"no dataset '{args.dataset}'{did_you_mean(args.dataset, cfg.datasets)}")
    paths = made_of(cfg, args.dataset)
    print("\n".join(map(str, paths)) or "nothing was made of it")
    for line in left_of(cfg, args.dataset):
        print(f"stays: {line}")
    if not paths:
        return
    if not args.yes:
        try:
            answer = input(f"remove these {len(paths)} files and folders? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise UserError("nothing was removed (--yes does not ask)")
    remove(paths)
    print("removed")


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
    _add_settings(plan)
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

    # ``--configfile A TARGET``: what looks like a target is one.
    known = rules(home())
    more = [word for word in args.overlays if is_target(word, known)]
    args.overlays = [word for word in args.overlays if word not in more]
    overlays, config = _settings(args)
    cfg = read_config(overlays=overlays, settings=config)
    options = ["--configfile", *overlays] if overlays else []
    options += ["--config", *config] if config else []
    print(text_of(plan(cfg, jobs_of([*args.targets, *more], options), this_machine()), cfg))


def _ask(args: argparse.Namespace) -> None:
    cfg = _read(args)
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
        files_of_config, _ = _settings(args)
        overlays = ["--configfile", *files_of_config] if files_of_config else []
        targets = [name for name in files if not (derived and name == last)]
        command = shlex.join(["snakemake", *targets, *overlays, "--cores", "all"])
        raise UserError(f"{file} is not built yet: {command}")


if __name__ == "__main__":
    main()
