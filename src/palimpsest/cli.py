"""The ``palimpsest`` command."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from palimpsest import __version__
from palimpsest.commands import ask, completion, init, new, published, purge, push, show, track
from palimpsest.commands.settings import add_settings, options_of, read, wait
from palimpsest.config import Config
from palimpsest.errors import UserError, did_you_mean, run_cli
from palimpsest.home import home, own_settings
from palimpsest.pipeline.launch import command, is_target, rules
from palimpsest.pipeline.targets import unsuited


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

    argparse cannot leave options to another program: it refuses those that it does not know. The
    words after ``complete`` are what somebody has typed so far.
    """
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 1 if "=" in words[place] else 2
    if list(words[place : place + 1]) not in (["run"], ["complete"]):
        return list(words), None
    return list(words[: place + 1]), list(words[place + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="palimpsest",
        description="Look at models that have unlearned something. Snakemake builds them:"
        " `snakemake results/<model>/<method>/eval.json --cores all`.",
    )
    parser.add_argument("--version", action="version", version=f"palimpsest {__version__}")
    add_settings(parser, "first_")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init.add(commands)
    new.add(commands)
    _add_run(commands)
    ask.add(commands)
    _add_plan(commands)
    _add_list(commands)
    show.add(commands)
    push.add(commands)
    published.add(commands)
    track.add(commands)
    purge.add(commands)
    completion.add(commands)
    return parser


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
    if args.words in (["-h"], ["--help"]):
        _parser().parse_args(["run", "--help"])
    wait("starting Snakemake ...")
    from snakemake.cli import main as snakemake  # slow to import

    chosen, words = _cut(args.words, "--set")
    before = ["--config", *args.first_config] if args.first_config else []
    overlays = [*own_settings(), *args.first_overlays]
    sys.argv = ["snakemake", *command([*words, *before], [*args.first_set, *chosen], overlays)]
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
        help="print the subjects, methods, measures, attacks or data sets that there are",
        description="Print what the configuration names, a line each.",
        epilog="example: palimpsest list methods smollm2-135m",
    )
    listed.add_argument("what", nargs="?", choices=sorted(LISTS), default="subjects")
    listed.add_argument("model", nargs="?", help="with methods: those that suit this subject")
    add_settings(listed)
    listed.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    cfg = read(args)
    lines = LISTS[args.what](cfg)
    if len(sys.argv) == 2:
        others = ", ".join(name for name in sorted(LISTS) if name != args.what)
        print(f"{args.what} (palimpsest list has these, too: {others})", file=sys.stderr)
    if args.model is not None:
        if args.what != "methods":
            raise UserError(f"a subject can only follow 'methods', not '{args.what}'")
        if args.model not in cfg.models:
            raise UserError(f"no subject '{args.model}'{did_you_mean(args.model, cfg.models)}")
        lines = {name: text for name, text in lines.items() if not unsuited(cfg, args.model, name)}
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}".rstrip())


def _first_line(settings: object) -> str:
    """The first sentence of the file that declares the settings."""
    text = sys.modules[type(settings).__module__].__doc__ or ""
    return " ".join(text.split("\n\n")[0].split())


def _measures() -> dict[str, str]:
    from palimpsest.metrics.measures import measures  # imports numpy and pyarrow

    # A name may be declared for several blocks; the first declaration is the plainest.
    return {one.name: " ".join(one.says.split()) for one in reversed(measures())}


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
    "attacks": lambda cfg: {name: _first_line(entry) for name, entry in cfg.attacks.items()},
    "measures": lambda cfg: _measures(),
    "scenarios": lambda cfg: {name: scenario.title for name, scenario in cfg.scenarios.items()},
}
"""What ``palimpsest list`` can print: name -> a few words on it."""


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
        "Memory is computed from the model's shape, the settings and the rows (README.md, A plan).",
    )
    plan.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="files or rules, as for snakemake (default: its default target, results/report.html)",
    )
    add_settings(plan)
    plan.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> None:
    wait("planning: Snakemake lists the jobs ...")
    from palimpsest.pipeline.plan.estimate import plan
    from palimpsest.pipeline.plan.jobs import jobs_of
    from palimpsest.pipeline.plan.machine import this_machine
    from palimpsest.pipeline.plan.table import text_of

    # ``--configfile A TARGET``: what looks like a target is one.
    known = rules(home())
    more = [word for word in args.overlays if is_target(word, known)]
    args.overlays = [word for word in args.overlays if word not in more]
    cfg = read(args)
    jobs = jobs_of([*args.targets, *more], options_of(args))
    print(text_of(plan(cfg, jobs, this_machine()), cfg))


if __name__ == "__main__":
    main()
