"""The program that runs one job of any stage; its options follow from the stage's fields."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from palimpsest.errors import memory_explained
from palimpsest.machines.lease import use_gpus
from palimpsest.machines.processes import several
from palimpsest.machines.writer import write_once
from palimpsest.pipeline.options import Option, json_object, whole_number
from palimpsest.pipeline.stage import Stage
from palimpsest.pipeline.stages import STAGES

LESS_MEMORY = (
    "These take less and change no result: training.gradient_checkpointing: true; smaller "
    "measure.generation.batch_rows and measure.batch_tokens; devices with parallel: fsdp, where a "
    "model is trained. `palimpsest plan TARGET` prints what each job needs"
)


def run(argv: Sequence[str] | None = None) -> None:
    """Parse a command line, ``STAGE --config ...``, and do the work of the job.

    Raises:
        UserError: an input is missing, altered, or does not suit the settings.
    """
    args = parser().parse_args(argv)
    # A log that is piped shows each line at once.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    stage = STAGES[args.stage]
    write_once(Path(args.out_text))
    if stage.gpu:
        use_gpus(args.gpus, args.label)
    job = job_of(stage, args)
    with several(job.untracked), memory_explained(LESS_MEMORY):
        # lm-eval's moving bars would fill the log; read when tqdm is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
        work(stage)(job)


def work(stage: type[Stage]) -> Any:
    """The function that does a stage's work."""
    module, _, function = stage.work.partition(":")
    return getattr(importlib.import_module(module), function)


def job_of(stage: type[Stage], args: argparse.Namespace) -> Stage:
    """The job that a parsed command line describes."""
    return stage(**{field.name: getattr(args, field.name) for field in dataclasses.fields(stage)})


def parser() -> argparse.ArgumentParser:
    """The command line: a command per stage."""
    result = argparse.ArgumentParser(
        prog="stage.py",
        description="Run one job of a stage. Normally run by Snakemake, which passes exactly the "
        "settings that matter.",
    )
    commands = result.add_subparsers(required=True, metavar="STAGE", dest="stage")
    for name, stage in STAGES.items():
        summary = (stage.__doc__ or "").strip()
        command = commands.add_parser(name, help=summary, description=summary)
        for field in dataclasses.fields(stage):
            _add(command, field, stage)
        if stage.gpu:
            command.add_argument(
                "--gpus",
                type=whole_number,
                metavar="N",
                help="GPUs to lease, 0 for none (default: use what is visible, beside other jobs)",
            )
    return result


def _add(
    command: argparse.ArgumentParser, field: dataclasses.Field[Any], stage: type[Stage]
) -> None:
    option, optional = _option(get_type_hints(stage, include_extras=True)[field.name])
    settings: dict[str, Any] = {
        "help": option.help,
        "type": option.read,
        "metavar": {json_object: "JSON", int: "N", str: "TEXT"}.get(option.read, "PATH"),
    }
    if optional:
        settings["type"] = lambda text: option.read(text) if text else None
    if option.many:
        settings |= {"nargs": "*", "action": _Tuple}
    if field.default is not dataclasses.MISSING:
        settings["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        settings["default"] = field.default_factory()
    else:
        settings["required"] = True
    if field.name == "out":
        settings["action"] = _Out
    command.add_argument("--" + field.name.replace("_", "-"), **settings)


def _option(hint: Any) -> tuple[Option, bool]:
    """The option of a field's type, and whether the field may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [_option(part)[0] for part in get_args(hint) if part is not type(None)]
        return options[0], True
    option = next(part for part in hint.__metadata__ if isinstance(part, Option))
    return option, type(None) in get_args(hint.__origin__)


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


class _Out(argparse.Action):
    """Keeps the text as well: it names the file that is written last, for the writer's lock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.read = kwargs.pop("type")
        super().__init__(*args, **kwargs)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        namespace.out_text = values
        setattr(namespace, self.dest, self.read(values))
