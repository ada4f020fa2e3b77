"""``palimpsest ask``: the answers of models before and after unlearning."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from palimpsest.commands.settings import add_settings, read, settings_of, wait
from palimpsest.config import Config
from palimpsest.errors import UserError, did_you_mean, memory_explained
from palimpsest.io.artifacts import MODEL
from palimpsest.pipeline import runs
from palimpsest.pipeline.targets import target_faults
from palimpsest.settings.template import Template

BATCH = 16
"""Questions of a file that are answered together."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    ask = commands.add_parser(
        "ask",
        help="print models' answers before and after unlearning",
        description="Print the greedy answers of a subject before unlearning, and after it by one "
        "method or several.",
        epilog='examples: palimpsest ask smollm2-135m sku "How is velmorite brewed?"; '
        "palimpsest ask smollm2-135m sku,sku-anchored --questions questions.txt --chat",
    )
    ask.add_argument("model", help="subject: a file of config/subjects")
    ask.add_argument(
        "method",
        help="method (a key of config/methods.yaml), or a run: METHOD/seed-N/attacks/NAME; several "
        "with commas between them",
    )
    ask.add_argument("prompt", nargs="?", help="the question")
    ask.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="questions in its place: a line each (.txt), or a column `question` or `prompt`",
    )
    ask.add_argument(
        "--chat", action="store_true", help="ask in the chat template in the base's folder"
    )
    ask.add_argument("--seed", type=int, help="seed of the run (default: its first)")
    ask.add_argument(
        "--max-new-tokens", type=_positive, default=64, help="longest answer (default: 64)"
    )
    add_settings(ask)
    ask.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, not '{text}'")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Answer each question with each model."""
    cfg = read(args)
    methods = [method.strip("/") for method in args.method.split(",") if method.strip("/")]
    chosen = {method: _checked_run(args, method, cfg) for method in methods or [args.method]}
    prompts = _prompts(args.prompt, args.questions)
    folders = {"before (original)": runs.model_folder(args.model, "original/seed-0")}
    for method, name in chosen.items():
        folder = runs.model_folder(args.model, name)
        original = folders["before (original)"]
        _refuse_missing(args, name, [str(original / MODEL), str(folder / MODEL)])
        folders[f"after ({method})"] = folder
    wait(f"asking {len(folders)} models")
    from palimpsest.machines.lease import use_gpus

    use_gpus(1, f"palimpsest ask {args.model} {args.method}")
    from palimpsest.measuring.ask import answers

    base = cfg.models[args.model].base
    settings = cfg.bases[base]
    if args.chat:
        settings = settings.model_copy(update={"template": Template(chat=True)})
    with memory_explained("End what else uses it, or ask on the CPU: PALIMPSEST_DEVICE=cpu"):
        texts = answers(
            Path("resources/models") / base, settings, folders, prompts, args.max_new_tokens, BATCH
        )
    _print(prompts, texts)


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The question, or those of a file."""
    if (prompt is None) == (file is None):
        raise UserError("one question is needed, or a file of them: --questions FILE")
    if prompt is not None:
        if not prompt.strip():
            raise UserError("the prompt is empty")
        return [prompt]
    from palimpsest.starting.columns import prompts_of

    return prompts_of(Path(str(file)))


def _print(prompts: Sequence[str], texts: Mapping[str, Sequence[str]]) -> None:
    for place, prompt in enumerate(prompts):
        if len(prompts) > 1:
            print(f"{place + 1}. {prompt}")
        for heading, answered in texts.items():
            print(f"{heading}:")
            print(textwrap.indent(textwrap.fill(answered[place] or "(empty answer)", 76), "    "))


def _checked_run(args: argparse.Namespace, method: str, cfg: Config) -> str:
    """The run that is asked for: a method's, or the one that was named."""
    run = method
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
            f"'{method}' is no run: METHOD, METHOD/seed-N or METHOD/seed-N/attacks/NAME"
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
        files_of_config, _ = settings_of(args)
        overlays = ["--configfile", *files_of_config] if files_of_config else []
        targets = [name for name in files if not (derived and name == last)]
        command = shlex.join(["snakemake", *targets, *overlays, "--cores", "all"])
        raise UserError(f"{file} is not built yet: {command}")
