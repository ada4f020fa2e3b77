"""Targets on the command line: a typo dies at once and names what would be valid.

Snakemake answers a wrong target with a MissingRuleException, and does not yet know its targets
while it reads the Snakefile; its own argument parser does.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from palimpsest.config.idle import idle
from palimpsest.config.load import PAGES, read_config
from palimpsest.config.modules import lacking, roles
from palimpsest.config.schema import RESULT_FILES, RUN_FOLDERS, SUBJECT_FOLDERS, Config
from palimpsest.config.spaces import lacks_own
from palimpsest.config.yaml_files import read_yaml
from palimpsest.errors import UserError, did_you_mean, one_screen
from palimpsest.home import home
from palimpsest.io.artifacts import COMPARE, EVAL, ROBUST, ROWS, VERDICT
from palimpsest.pipeline import proposals, runs
from palimpsest.pipeline.launch import rules
from palimpsest.pipeline.slices import draws_of, wanted_of
from palimpsest.pipeline.stages import STAGES
from palimpsest.settings.draw import topic_sets
from palimpsest.settings.types import dataset_of
from palimpsest.settings.vector import method_of


def config_or_exit(
    raw: Mapping[str, Any],
    argv: Sequence[str],
    files: Iterable[str | Path] = (),
    folder: str | Path | None = None,
) -> Config:
    """What the Snakefile calls: the checked configuration, or one clean message and exit status 1.

    ``sys.exit`` with a text is the one way to end Snakemake's parsing without the lines
    ``WorkflowError in file ...`` and ``File ..., in <module>`` around the message.

    Args:
        raw: Snakemake's ``config``; it wins over the files of `folder`.
        argv: ``sys.argv``; empty where targets are none of the workflow's business (a module).
        files: ``workflow.configfiles``; read again to refuse repeated keys.
        folder: the workflow's folder ``config``; None: see `palimpsest.config.load.read_config`.
    """
    try:
        for path in files:
            read_yaml(path)
        cfg = read_config(folder, tables=[raw])
        if argv:
            for notice in idle(raw, cfg, asked(check_targets(argv, cfg), cfg)):
                print(f"notice: {notice}", file=sys.stderr)
    except UserError as error:
        sys.exit(f"error: {error}")
    return cfg


def check_targets(argv: Sequence[str], cfg: Config) -> list[str]:
    """The targets of a Snakemake command line, checked against the configuration.

    Raises:
        UserError: a path names a subject, method, seed, base, dataset or part that is not there.
    """
    targets = targets_of(argv)
    faults = [f"{t}: {fault}" for t in targets for fault in target_faults(t, cfg)]
    faults += [fault for t in targets for fault in _rule_faults(t, rules(home()))]
    if faults:
        raise UserError("\n  ".join(one_screen(faults)))
    return targets


def asked(targets: Iterable[str], cfg: Config) -> list[tuple[str, str]]:
    """Subject and method of each result that is asked for: of files, else of both pages."""
    parts = [PurePosixPath(target).parts for target in targets]
    files = [(p[1], p[2]) for p in parts if len(p) > 3 and p[0] == "results" and p[1] in cfg.models]
    if files:
        return files
    pages = [cfg.shown(page).items() for page in PAGES]
    shown = [(model, method) for page in pages for model, methods in page for method in methods]
    return list(dict.fromkeys(shown))


def targets_of(argv: Sequence[str]) -> list[str]:
    """Targets in a command line whose first word is the program; none if that is not Snakemake."""
    if "snakemake" not in Path(argv[0]).parts[-2:]:
        return []
    from snakemake.cli import parse_args  # slow to import, and loaded already where it matters

    return list(parse_args(list(argv[1:]))[1].targets or [])


def _rule_faults(target: str, known: Sequence[str]) -> Iterator[str]:
    """What is wrong with a word that can only be the name of a rule."""
    if known and re.fullmatch(r"\w[\w-]*", target) and not Path(target).exists():
        if target not in known:
            hint = did_you_mean(target, set(known) - set(STAGES))
            result = "a result is named by its file: results/<model>/<method>/eval.json"
            yield f"no rule '{target}'{hint}; {result}"
        elif target in STAGES:
            yield (
                f"'{target}' is a stage of many results: name one of its files (docs/stages.md), "
                "such as results/<model>/<method>/eval.json"
            )


def target_faults(target: str, cfg: Config) -> Iterator[str]:
    """Yield what is wrong with one target; other files and rule names are Snakemake's matter."""
    match PurePosixPath(target).parts:
        case ["results", first] if first in RESULT_FILES:
            return
        case ["results", "tables" | "all_methods", *_]:
            return
        case ["results", model, *rest]:
            yield from _result_faults(model, rest, cfg)
        case ["resources", "models", base, *_]:
            yield from _unknown("base", base, cfg.bases)
        case ["resources", "datasets", dataset, *rest]:
            yield from _dataset_faults(dataset, rest, cfg)
        case ["resources", "tokens", base, dataset, *rest]:
            yield from _unknown("base", base, cfg.bases)
            yield from _dataset_faults(dataset, rest, cfg)


def _result_faults(model: str, rest: Sequence[str], cfg: Config) -> Iterator[str]:
    if model not in cfg.models:
        yield from _unknown("model", model, cfg.models)
        return
    if not rest:
        yield f"this is a folder; ask for a file in it, such as results/{model}/original/eval.json"
        return
    method, *file = rest
    if method == "tune" and file:
        yield from _unknown("plan", file[0], cfg.tuning)
    if method in SUBJECT_FOLDERS and not (file and re.fullmatch(r"seed-.*", file[0])):
        return
    if method not in cfg.method_names():
        yield from _unknown("method", method, cfg.method_names())
    elif not file:
        yield f"this is a folder; ask for a file in it, such as results/{model}/{method}/eval.json"
    elif len(file) == 1 and (close := _misspelt(file[0])):
        yield f"no file '{file[0]}' in a method's folder; did you mean '{close}'?"
    elif fault := unsuited(cfg, model, method):
        yield fault
    elif file[0] == "tune" and cfg.plan(method) is None:
        tuned = [name for name in cfg.methods if cfg.plan(name) is not None]
        yield (
            f"'{method}' has no trials, for its settings are set by hand (docs/tuning.md); tuned "
            f"methods: {', '.join(tuned) or 'none'}"
        )
    elif seed := re.fullmatch(r"seed-(.*)", file[0]):
        seeds = [str(seed) for seed in cfg.seeds(method, model)]
        if seed[1] not in seeds:
            yield f"{method} has no seed {seed[1]} for {model}; valid: {', '.join(seeds)}"
        yield from _run_faults(PurePosixPath("results", model, method, file[0]), file[1:], cfg)
        name = cfg.models[model].scenario
        if file[-1] == "lm_eval.json" and not cfg.scenarios[name].lm_eval:
            yield f"scenario '{name}' has no task for lm-eval; set scenarios.{name}.lm_eval"


def _misspelt(file: str) -> str | None:
    """The file of a method that is meant; None if it is one, or something else altogether."""
    known = (EVAL, ROWS, COMPARE, ROBUST, VERDICT)
    close = difflib.get_close_matches(file, known, n=1, cutoff=0.85)
    return close[0] if close and file not in known else None


def _run_faults(run: PurePosixPath, rest: Sequence[str], cfg: Config) -> Iterator[str]:
    """Faults below a run's folder: a file of it, or a run that is derived from it."""
    match rest:
        case []:
            yield f"this is a folder; ask for a file in it, such as {run}/measure.json"
        case ["attacks", file] if file.endswith((".parquet", ".json")):
            yield from _unknown("attack", file.rpartition(".")[0], cfg.attacks)
        case [folder, name, *further] if folder in runs.DERIVED:
            if not re.fullmatch(runs.NAME, name):
                yield f"'{name}' cannot be a name in {run}/{folder}: only letters, digits, _ and -"
            else:
                yield from _run_faults(run / folder / name, further, cfg)
        case [folder] if folder in runs.DERIVED:
            file = f"{run}/{folder}/NAME/measure.json"
            yield f"this is a folder; ask for a file of a run in it: {file}"
        case [folder, _, *_] if folder not in RUN_FOLDERS:
            valid = (*RUN_FOLDERS, *runs.DERIVED)
            yield f"a run has no folder '{folder}'{did_you_mean(folder, valid)}"


def unsuited(cfg: Config, model: str, method: str) -> str | None:
    """Why a method cannot be applied to a subject, or None."""
    name = cfg.models[model].scenario
    scenario = cfg.scenario(model)
    subject = cfg.models[model]
    taught = [] if subject.adapter is not None else scenario.kept()
    if method == "retrained" and not taught and not isinstance(subject.retrained, str):
        if subject.adapter is not None:
            return f"models.{model}.retrained names no model, so there is no 'retrained'"
        lacks = "teaches nothing that is to be kept" if scenario.pretrain else "has no pretrain"
        valid = ", ".join(["original", *cfg.methods])
        return f"scenario '{name}' {lacks}, so there is no 'retrained'; valid methods: {valid}"
    before = subject.request_before()
    if before and method not in ("base", "retrained") and (fault := unsuited(cfg, *before)):
        return f"'{model}' comes after {subject.after}, which cannot be made: {fault}"
    if method not in cfg.methods:
        return None
    settings = cfg.with_roles(method, model)
    start, base = settings.start, cfg.models[model].base
    lora = settings.training.lora if start == "fresh" else None
    role = lacking(roles(lora, settings.training.tensors), cfg.bases[base].modules)
    if role is not None:
        return f"method '{method}' trains the role '{role}', of which base '{base}' has no module"
    if start == "weights" and (kind := cfg.bases[base].quantize):
        return (
            f"method '{method}' trains the base's own weights (start: weights), and those of base "
            f"'{base}' are quantised (quantize: {kind}); take a base without quantize"
        )
    if start == "subject" and before and not _has_adapter(cfg, model):
        return (
            f"method '{method}' trains the subject's own adapter (start: subject), and "
            f"{subject.after} left none, but other weights; set start: fresh or weights"
        )
    if start == "subject" and scenario.pretrain is None and not subject.taught_elsewhere:
        return (
            f"method '{method}' trains the subject's own adapter (start: subject), and scenario "
            f"'{name}' has no pretrain; name the adapter that you have (models.{model}.adapter), "
            "or set start: fresh for this subject"
        )
    for other in map(method_of, settings.vectors()):
        if fault := unsuited(cfg, model, other):
            return f"method '{method}' reads the task vector of '{other}': {fault}"
    sets = {s for draw in draws_of(cfg, model, method) for s in (*draw.sets, *draw.answers_of)}
    topics = topic_sets(len(scenario.forgets()))
    if len(topics) > 1 and (left := [name for name in topics if name not in sets]):
        return (
            f"scenario '{name}' has {len(topics)} topics to forget, and method '{method}' reads "
            f"{len(topics) - len(left)} of them; take rmu with topics: {len(topics)}, or a "
            "scenario of one topic"
        )
    for used in sorted(sets):
        if scenario.rows_of(used) is None:
            return f"method '{method}' reads {used} rows, and scenario '{name}' has no '{used}'"
    if fault := lacks_own(settings, cfg.methods[method].space):
        return f"method '{method}': {fault}"
    plan, entry = cfg.plan(method), cfg.methods[method]
    if plan is not None and plan.tpe and not entry.points and (fault := proposals.lacking()):
        return f"method '{method}' has a second round (tuning.{entry.tune}.tpe): needs {fault}"
    return _without_prompts(cfg, model, method)


def _has_adapter(cfg: Config, model: str) -> bool:
    """Whether a subject is, or contains, an adapter."""
    subject = cfg.models[model]
    if (before := subject.request_before()) is None:
        return subject.adapter is not None or cfg.scenario(model).pretrain is not None
    earlier, method = before
    return cfg.with_roles(method, earlier).start == "fresh" or _has_adapter(cfg, earlier)


def _without_prompts(cfg: Config, model: str, method: str) -> str | None:
    """Why a method that needs prompts cannot be applied; None: the rows have some."""
    for ref, what in _uses_of_prompts(cfg, model, method):
        if cfg.datasets[dataset_of(ref)].format == "text":
            without = [name for name in cfg.methods if not _uses_of_prompts(cfg, model, name)]
            working = [name for name in without if unsuited(cfg, model, name) is None]
            return (
                f"method '{method}' {what}, and '{ref}' has plain texts, without prompts; methods "
                f"that work: {', '.join(working)}"
            )
    return None


def _uses_of_prompts(cfg: Config, model: str, method: str) -> list[tuple[str, str]]:
    """(dataset/part, what the method does with its prompts)."""
    wanted = wanted_of(cfg, model, method)
    uses = [(ref, f"teaches other answers to prompts ({kind}s)") for ref, kind in wanted]
    if any("declined" in draw.sets for draw in draws_of(cfg, model, method)):
        forget = cfg.scenario(model).forget
        uses.append((forget, "compares where prompts end"))
    return uses


def _dataset_faults(dataset: str, rest: Sequence[str], cfg: Config) -> Iterator[str]:
    if dataset not in cfg.datasets:
        yield from _unknown("dataset", dataset, cfg.datasets)
    elif rest and rest[0].endswith(".parquet"):
        valid = [f"{dataset}/{part}" for part in cfg.datasets[dataset].parts]
        yield from _unknown("part", f"{dataset}/{rest[0].removesuffix('.parquet')}", valid)


def _unknown(kind: str, name: str, valid: Iterable[str]) -> Iterator[str]:
    if name not in valid:
        yield f"no {kind} '{name}' in the configuration{did_you_mean(name, valid)}"
