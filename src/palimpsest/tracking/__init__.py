"""What ``palimpsest track`` sends to an experiment tracker: from files that are written already.

Nothing is sent unless somebody types that command. A tracker is one file beside this one, with a
function ``open_run`` that returns a `Run`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.artifacts import EVAL, ROBUST, TRAINING_LOG, TRIALS
from palimpsest.io.sealed import read_document

TRACKERS = ("tensorboard", "mlflow", "wandb")
"""Called as the package that each needs: ``pip install 'palimpsest[<tracker>]'``."""

Point = tuple[int, float]


class Run(Protocol):
    """A run of a tracker."""

    def points(self, name: str, points: Iterable[Point]) -> None:
        """Add (step, value) pairs to a curve."""

    def values(self, values: Mapping[str, float]) -> None:
        """Set the numbers of the result."""

    def close(self) -> None:
        """Write what is left."""


@dataclass(frozen=True)
class Record:
    """What is known of a method of a subject.

    Attributes:
        curves: ``seed-0/loss`` -> its points; of a tuned method ``tune/forget`` and so on, a point
            for each trial.
        values: ``forget.recall_rate`` -> value.
        settings: what identifies it.
    """

    curves: dict[str, list[Point]]
    values: dict[str, float]
    settings: dict[str, Any]


def open_run(tracker: str, project: str, name: str, settings: Mapping[str, Any], to: str) -> Run:
    """A new run of a tracker.

    Args:
        tracker: one of `TRACKERS`.
        project: what the tracker groups runs by.
        name: of the run.
        settings: recorded with it.
        to: folder or address of the tracker; empty: its own default.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    if tracker not in TRACKERS:
        valid = ", ".join(TRACKERS)
        raise UserError(f"no tracker '{tracker}'{did_you_mean(tracker, TRACKERS)}; valid: {valid}")
    if importlib.util.find_spec(tracker) is None:
        raise UserError(f"{tracker} is not installed: pip install 'palimpsest[{tracker}]'")
    module = importlib.import_module(f"palimpsest.tracking.{tracker}_runs")
    opened: Run = module.open_run(project, name, settings, to)
    return opened


def record(folder: Path) -> Record:
    """What the folder of a method holds, finished or under way.

    Args:
        folder: ``results/<subject>/<method>``.

    Raises:
        UserError: a file is damaged.
    """
    curves: dict[str, list[Point]] = {}
    for file in _logs(folder):
        seed, part = file.relative_to(folder).parts[:2]
        stage = {"model": ""}.get(part.removesuffix(".ckpt"), f"/{part.removesuffix('.ckpt')}")
        for line in _lines(file):
            for name, value in _curves(line):
                curves.setdefault(f"{seed}{stage}/{name}", []).append((line["step"], value))
    curves |= _trials(folder / "tune" / TRIALS)
    values: dict[str, float] = {}
    settings: dict[str, Any] = {"subject": folder.parent.name, "method": folder.name}
    if (folder / EVAL).is_file():
        from palimpsest.model.card import measures

        document = read_document(folder / EVAL)
        values |= {f"{b}.{m}": float(e["value"]) for b, m, e in measures(document["metrics"])}
        settings |= {"seeds": document["provenance"]["seeds"], "git": document["provenance"]["git"]}
    if (folder / ROBUST).is_file():
        recoverable = (read_document(folder / ROBUST)["recoverable"] or {}).get("value")
        values |= {} if recoverable is None else {"robust.recoverable": float(recoverable)}
    return Record(curves, values, settings)


def _logs(folder: Path) -> list[Path]:
    """Logs of finished trainings, and of those under way in their side folders."""
    found = sorted(folder.glob(f"seed-*/*/{TRAINING_LOG}"))
    done = {file.parent for file in found if file.parent.suffix != ".ckpt"}
    return [f for f in found if f.parent.suffix != ".ckpt" or f.parent.with_suffix("") not in done]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines: the last one of a training under way may be cut."""
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _curves(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("loss", "lr", "grad_norm"):
        if line.get(name) is not None:
            yield name, float(line[name])
    for term, value in (line.get("terms") or {}).items():
        if value is not None:
            yield f"terms/{term}", float(value)


def _trials(file: Path) -> dict[str, list[Point]]:
    """What each trial measured, at the scale that stands first."""
    if not file.is_file():
        return {}
    from palimpsest.io.tables import read_table

    lines = {line["trial"]: line for line in reversed(read_table(file)[0].to_pylist())}
    names = ("forget", "retain", "general", "degenerate")
    return {
        f"tune/{name}": [
            (step, float(lines[trial][name]))
            for step, trial in enumerate(sorted(lines))
            if lines[trial][name] is not None
        ]
        for name in names
    }
