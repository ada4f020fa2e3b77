"""The input of the report: the results of each subject and method, read from disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.config.schema import REFERENCES
from palimpsest.errors import UserError
from palimpsest.io.artifacts import (
    CHOSEN,
    COMPARE,
    EVAL,
    MODEL,
    REGION,
    REGION_TABLE,
    ROBUST,
    ROWS,
    SWEEP,
    TRIALS,
    VERDICT,
)
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.cost import training_log
from palimpsest.metrics.pairs import Pair, page_pairs

ROW_COLUMNS = (
    "seed",
    "part",
    "id",
    "group",
    "prompt",
    "response",
    "answer",
    "recall",
    "degenerate",
    "key",
)
"""Columns that rows.parquet must have; all others are optional."""

TEXTS = ("prompt", "response", "answer", "key")
"""Columns that a report without texts does not have."""

SWEEP_COLUMNS = ("scale", "part", "recall_rate")
"""Columns that sweep.parquet must have."""

ORIGINAL = "original"
"""The model before unlearning: the run that every method is compared with."""

RETRAINED = "retrained"
"""The method name of the subject that never learned what is to be forgotten."""

REGION_COLUMNS = ("tensor", "layer", "module", "matrix", "cosine", "magnitude", "selected")
"""Columns that region.parquet must have."""

TRIAL_COLUMNS = (
    "trial",
    "scale",
    "settings",
    "status",
    "reason",
    "forget",
    "retain",
    "x",
    "y",
    "feasible",
    "front",
    "chosen",
    "optimizer_rows",
)
"""Columns that trials.parquet must have."""

BASE = "base"
"""The method name of the base model, which was taught nothing."""

TITLES = {ORIGINAL: "Original", RETRAINED: "Retrained", BASE: "Never taught"}
"""Titles of the reserved methods if the config has none."""


@dataclass(frozen=True)
class Region:
    """The tensors that one seed of a method may train."""

    seed: int
    tensors: list[dict[str, Any]]
    """Lines of region.parquet: all tensors, chosen or not."""
    facts: Mapping[str, Any]
    """region.json: ``tensors``, ``of``, ``parameters``, ``limits``, ``random``."""


@dataclass(frozen=True)
class Tuned:
    """The search that a method's settings come from."""

    trials: list[dict[str, Any]]
    """Lines of trials.parquet: every trial at every scale."""
    chosen: Mapping[str, Any]
    """chosen.json."""


@dataclass(frozen=True)
class Run:
    """One method applied to one subject, all its seeds."""

    method: str
    title: str
    eval: Mapping[str, Any]
    rows: list[dict[str, Any]]
    sweep: list[dict[str, Any]]
    """Lines of each seed's sweep.parquet, with ``seed``; empty where the method has no sweep."""
    training: list[dict[str, Any]]
    """Lines of each seed's train.jsonl, with ``seed``; empty where nothing was trained."""
    scale: float | None
    """The lambda in use; None where the method has none."""
    regions: list[Region]
    """One per seed; empty where the method trains no region."""
    compare: Mapping[str, Any]
    """compare.json; empty for the subject itself."""
    robust: Mapping[str, Any] = field(default_factory=dict)
    """robust.json; empty where no attack was run."""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    """verdict.json; empty where the page has none."""
    tuned: Tuned | None = None
    """The search for the settings; None where they were set by hand."""

    @property
    def ranked(self) -> bool:
        """Whether the method is compared in rank: not if its search met its conditions nowhere."""
        return self.tuned is None or bool(self.tuned.chosen["feasible"])

    @property
    def seeds(self) -> list[int]:
        """Seeds that count, in the order of every ``per_seed``."""
        return list(self.eval["provenance"]["seeds"])

    @property
    def stops(self) -> list[dict[str, Any]]:
        """Lines of `training` after which a seed ended before its last step."""
        return [line for line in self.training if line.get("ended")]

    @property
    def heals_on_reported(self) -> bool:
        """Whether its training read all that is to be kept, reported rows among it."""
        slices = (self.eval["provenance"].get("config") or {}).values()
        return any("keep" in (one.get("sets") or {}) for one in slices if isinstance(one, Mapping))

    def measure(self, path: str) -> dict[str, Any]:
        """The measure at ``block.name`` of eval.json: value, n, ci95, sd, reason."""
        block, name = path.split(".")
        estimate = (self.eval["metrics"].get(block) or {}).get(name)
        if not isinstance(estimate, Mapping):
            estimate = {"value": None, "reason": "not measured: eval.json does not have it"}
        return {"value": None, "n": None, "ci95": None, "sd": None, "reason": None, **estimate}

    def has(self, path: str) -> bool:
        """Whether eval.json has the measure at ``block.name``, with or without a value."""
        block, name = path.split(".")
        return name in (self.eval["metrics"].get(block) or {})

    @property
    def confidence(self) -> str:
        """Level of the intervals: ``95%``."""
        return f"{100 * self.level:g}%"

    @property
    def level(self) -> float:
        """Level of the intervals, in (0, 1)."""
        return float(self.eval.get("confidence", 0.95))

    def value(self, path: str) -> float | None:
        """The value of the measure at ``block.name``; None where it is null."""
        return self.measure(path)["value"]


@dataclass(frozen=True)
class Subject:
    """A model and what it knows, with every method that was applied to it."""

    name: str
    title: str
    scenario: str
    runs: list[Run]
    pretraining: list[dict[str, Any]]
    """Lines of the subject's train.jsonl; empty where it was not pretrained here."""
    pairs: list[Pair] = field(default_factory=list)
    """Tests of every two unlearning methods."""
    texts: bool = True
    """Whether rows have `TEXTS`."""

    @property
    def original(self) -> Run | None:
        """The model before unlearning, if the report shows it."""
        return self._run(ORIGINAL)

    @property
    def retrained(self) -> Run | None:
        """The subject that never learned what is to be forgotten, if the report shows it."""
        return self._run(RETRAINED)

    @property
    def base(self) -> Run | None:
        """The base model, which was taught nothing, if the report shows it."""
        return self._run(BASE)

    def _run(self, method: str) -> Run | None:
        return next((run for run in self.runs if run.method == method), None)


def read_subjects(slice_: Mapping[str, Any], results: Path) -> list[Subject]:
    """Read the results of every subject and method in the config slice.

    Args:
        slice_: ``{"report": {"models": {model: [methods]}}, "titles": {model: {...}}}``, and
            where they are not wanted: ``"sweeps": False`` (trade-offs over lambda) and, in the
            report, ``"texts": False`` (questions and answers). ``attacked`` names the subjects
            whose methods have a robust.json and a verdict.json.
        results: the folder ``results/``.

    Raises:
        UserError: an eval.json or rows.parquet is missing or lacks a key or column.
    """
    sweeps = slice_.get("sweeps", True)
    subjects = [
        _subject(
            model,
            methods,
            slice_.get("titles", {}).get(model, {}),
            results,
            sweeps,
            model in slice_.get("attacked", ()),
        )
        for model, methods in slice_["report"]["models"].items()
    ]
    subjects = _with_pairs(subjects)
    return subjects if slice_["report"].get("texts", True) else list(map(_without_texts, subjects))


def _without_texts(subject: Subject) -> Subject:
    runs = [
        replace(run, rows=[{k: v for k, v in row.items() if k not in TEXTS} for row in run.rows])
        for run in subject.runs
    ]
    return replace(subject, runs=runs, texts=False)


def _subject(
    model: str,
    methods: list[str],
    titles: Mapping[str, Any],
    results: Path,
    sweeps: bool,
    attacked: bool,
) -> Subject:
    names = titles.get("methods", {})
    runs = [
        _run(m, _title(m, names.get(m)), results / model / m, sweeps, attacked) for m in methods
    ]
    return Subject(
        name=model,
        title=titles.get("model") or model,
        scenario=titles.get("scenario") or "",
        runs=runs,
        pretraining=_train_log(results / model / "subject", seed=0),
    )


def _with_pairs(subjects: list[Subject]) -> list[Subject]:
    """The subjects with the tests of their methods, corrected for all of the page."""
    tested = {subject.name: _unlearned(subject.runs) for subject in subjects}
    levels = [run.level for runs in tested.values() for run in runs]
    if not levels:
        return subjects
    frames = {
        name: {run.method: pd.DataFrame(run.rows) for run in runs} for name, runs in tested.items()
    }
    found = page_pairs(frames, levels[0])
    return [replace(subject, pairs=found[subject.name]) for subject in subjects]


def _unlearned(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.method not in REFERENCES]


def _title(method: str, title: str | None) -> str:
    return TITLES.get(method, method) if title in (None, "", method) else title


def _run(method: str, title: str, folder: Path, sweeps: bool, attacked: bool) -> Run:
    evaluation = _eval(folder / EVAL)
    # Folders of seeds that the config no longer names may exist: eval.json lists those that count.
    seeds = {seed: folder / f"seed-{seed}" for seed in evaluation["provenance"]["seeds"]}
    return Run(
        method=method,
        title=title,
        eval=evaluation,
        rows=_table(folder / ROWS, ROW_COLUMNS),
        sweep=[line for s, path in seeds.items() if sweeps for line in _sweep(path, s)],
        training=[
            line for seed, path in seeds.items() for line in _train_log(path / "model", seed)
        ],
        scale=_scale(evaluation, list(seeds.values())),
        regions=[region for seed, path in seeds.items() for region in _region(path, seed)],
        compare={} if method == ORIGINAL else read_document(folder / COMPARE),
        robust=read_document(folder / ROBUST) if attacked and method != BASE else {},
        verdict=read_document(folder / VERDICT) if attacked and method != BASE else {},
        tuned=_tuned(folder / "tune") if evaluation.get("tuning") else None,
    )


def _tuned(folder: Path) -> Tuned:
    return Tuned(_table(folder / TRIALS, TRIAL_COLUMNS), read_document(folder / CHOSEN))


def _region(folder: Path, seed: int) -> list[Region]:
    path = folder / REGION_TABLE
    if not path.exists():
        return []
    return [Region(seed, _table(path, REGION_COLUMNS), read_document(folder / REGION))]


def _eval(path: Path) -> dict[str, Any]:
    evaluation = read_document(path)
    for key, inner in (("metrics", None), ("provenance", "seeds"), ("cost", None)):
        if not isinstance(evaluation.get(key), dict) or (inner and inner not in evaluation[key]):
            name = f"{key}.{inner}" if inner else key
            raise UserError(f"{path} has no '{name}': score it again (delete it and rerun)")
    return evaluation


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    table, _ = read_table(path)
    if missing := [c for c in columns if c not in table.column_names]:
        raise UserError(
            f"{path} has no column {', '.join(map(repr, missing))} "
            f"(it has: {', '.join(table.column_names)}); delete it and run again"
        )
    return table.to_pylist()


def _sweep(folder: Path, seed: int) -> list[dict[str, Any]]:
    path = folder / SWEEP
    if not path.exists():
        return []
    return [{"seed": seed, **line} for line in _table(path, SWEEP_COLUMNS)]


def _train_log(folder: Path, seed: int) -> list[dict[str, Any]]:
    if (path := training_log(folder)) is None:
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{"seed": seed, **json.loads(line)} for line in lines if line.strip()]


def _scale(evaluation: Mapping[str, Any], folders: list[Path]) -> float | None:
    # eval.json records the lambda of the scored model; without a record, the model does.
    config = evaluation["provenance"].get("config") or {}
    # Of a tuned method it records the value that its search began with.
    records = [] if evaluation.get("tuning") else [config.get("negate") or {}]
    records += [read_document(p) for f in folders if (p := f / "model" / MODEL).exists()]
    scales = (record.get("scale") for record in records if isinstance(record, Mapping))
    return next((float(scale) for scale in scales if scale is not None), None)
