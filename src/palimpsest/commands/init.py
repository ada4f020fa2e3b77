"""``palimpsest init``: from a model and two files of rows to a file of settings and a plan."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from palimpsest.commands.settings import add_settings, options_of, read, settings_of, wait
from palimpsest.config import read_config


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    init = commands.add_parser(
        "init",
        help="write the settings for your model and your rows",
        description="Look at a model and at two files of rows (csv, jsonl, parquet, ...), write "
        "NAME.yaml with every choice in it, and print what to type next and what it will take.",
        epilog="example: palimpsest init customers --base path:../my-model --forget forget.csv "
        "--retain keep.csv",
    )
    init.add_argument("name", metavar="NAME", help="what the subject is called: results/NAME")
    model = init.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--base",
        metavar="MODEL",
        help="the model: hub:org/name, path:folder, or a base of the catalog (palimpsest list "
        "bases)",
    )
    model.add_argument(
        "--after",
        metavar="SUBJECT/METHOD",
        help="a second request: the model is what METHOD left of SUBJECT, and what was forgotten "
        "there is measured again",
    )
    init.add_argument(
        "--adapter",
        metavar="SOURCE",
        help="a LoRA adapter on it that knows the rows: path:folder or hub:org/name",
    )
    init.add_argument(
        "--forget", required=True, type=Path, metavar="FILE", help="rows that it shall forget"
    )
    init.add_argument(
        "--retain", required=True, type=Path, metavar="FILE", help="rows that it shall keep"
    )
    init.add_argument(
        "--columns",
        nargs="+",
        default=[],
        action="extend",
        metavar="FIELD=COLUMN",
        help="what columns hold, where their names do not say it: prompt=COLUMN response=COLUMN "
        "key=COLUMN, messages=COLUMN or text=COLUMN",
    )
    init.add_argument(
        "--teach",
        action="store_true",
        help="teach the model both files first: for a rehearsal with a model that does not know "
        "the rows",
    )
    add_settings(init)
    init.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the file, plan it, and say what to type."""
    wait(f"looking at {args.forget}, {args.retain} and {args.base or args.after}")
    from palimpsest.pipeline.plan.estimate import plan
    from palimpsest.pipeline.plan.jobs import jobs_of
    from palimpsest.pipeline.plan.machine import this_machine
    from palimpsest.pipeline.plan.table import totals
    from palimpsest.starting.init import Wish, write

    wish = Wish(
        args.name,
        args.base,
        args.forget,
        args.retain,
        args.adapter,
        args.teach,
        tuple(args.columns),
        args.after,
    )
    file = write(wish, read(args), _say, settings_of(args)[0])
    args.overlays = [*args.overlays, str(file)]
    words = shlex.join(options_of(args))
    _say(f"{file} is written: read it, and change what you like. What it will take:")
    overlays, config = settings_of(args)
    cfg = read_config(overlays=overlays, settings=config)
    for line in totals(plan(cfg, jobs_of([], options_of(args)), this_machine())):
        _say(f"  {line}")
    _say("Type next:")
    _say(f"  palimpsest plan {words}     # job by job")
    _say(f"  palimpsest run {words}      # all of it, with results/report.html")
    _say(f"  palimpsest show {args.name}")


def _say(text: str) -> None:
    print(text, flush=True)
