"""What a result cost: time and memory from Snakemake's benchmark files, steps from the log."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST, MODEL, TRAINING_LOG
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.metrics.estimates import rounded


def cost(
    benchmarks: Mapping[str, Sequence[Path]],
    measured: Sequence[Mapping[str, Any]],
    seed_folders: Sequence[Path],
) -> dict[str, Any]:
    """The ``cost`` block of eval.json.

    Args:
        benchmarks: stage -> benchmark files (one per seed); a file that is not there is left out.
        measured: the seeds' ``measure.json``.
        seed_folders: ``results/<model>/<method>/seed-<seed>``.

    Returns:
        ``wall_s`` (stage -> seconds, mean over its files), ``peak_rss_mb`` (largest of all files
        and measurements), ``peak_gpu_mb``, ``trained_parameters`` and ``steps`` (largest over
        seeds); None where no file has the value.
    """
    records = {
        stage: [record for path in paths if path.is_file() for record in read_benchmark(path)]
        for stage, paths in benchmarks.items()
    }
    seconds = {stage: _numbers(entries, "s") for stage, entries in records.items()}
    memory = [mb for entries in records.values() for mb in _numbers(entries, "max_rss")]
    logs = [log for folder in seed_folders if (log := training_log(folder / "model"))]
    return {
        "wall_s": {
            stage: rounded(math.fsum(values) / len(values))
            for stage, values in seconds.items()
            if values
        },
        "peak_rss_mb": max([*memory, *_numbers(measured, "peak_rss_mb")], default=None),
        "peak_gpu_mb": max(_numbers(measured, "peak_gpu_mb"), default=None),
        "trained_parameters": max(filter(None, map(_trained_parameters, logs)), default=None),
        "steps": max(filter(None, map(_steps, logs)), default=None),
    }


def training_log(folder: Path) -> Path | None:
    """The step log in a model's or an adapter's folder, verified; None: nothing was trained.

    Raises:
        UserError: the log or its manifest is damaged.
    """
    for name in (MODEL, MANIFEST):
        if (folder / name).is_file() and TRAINING_LOG in read_manifest(folder, name)["files"]:
            return verified(folder, TRAINING_LOG, name)
    return None


def read_benchmark(path: Path) -> list[dict[str, Any]]:
    """Records of a Snakemake benchmark file, ``.jsonl`` or tab-separated.

    Raises:
        UserError: a line of a ``.jsonl`` file is not a JSON object.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return _json_lines(path, text)
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def _numbers(records: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    # Snakemake writes NA or - where a job ended before it was sampled.
    numbers = []
    for record in records:
        try:
            number = float(record.get(name))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            numbers.append(number)
    return numbers


def _trained_parameters(log: Path) -> int | None:
    return read_manifest(log.parent, MODEL).get("trained_parameters")


def _steps(log: Path) -> int | None:
    lines = _json_lines(log, log.read_text(encoding="utf-8"))
    return max((int(line["step"]) for line in lines if "step" in line), default=None)


def _json_lines(path: Path, text: str) -> list[dict[str, Any]]:
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(
                f"{path}, line {number} is not a JSON object; delete the file and run again"
            ) from None
    return lines
