"""One trial of a search: train with the settings of a point, measure the rows that choose.

One process does both: the training is that of the stages `acquire`, `negate` and `unlearn`, and so
are the models that are measured, one for each scale of the change. The weights are deleted.
A training that diverges is a result; what is left of a killed one goes on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.engine.device import set_up
from palimpsest.engine.train import Diverged
from palimpsest.io import schemas
from palimpsest.io.artifacts import ROWS, TRAINING_LOG, TRIAL
from palimpsest.io.atomic import is_private
from palimpsest.io.private import make_private
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table
from palimpsest.measuring.choosing import ChoosingRows, choosing_rows
from palimpsest.metrics.choose import refuse_few_rows
from palimpsest.model.base import load_base
from palimpsest.model.description import deltas_in, updates_in
from palimpsest.model.joined import tensors_of
from palimpsest.model.names import first_block
from palimpsest.model.unlearned import freed, turned_into
from palimpsest.pipeline.stages import Acquire, Negate, Trial, Unlearn
from palimpsest.stages.acquire import write_acquired
from palimpsest.stages.chosen import scaled, with_settings
from palimpsest.stages.common import side_folder
from palimpsest.stages.method import train_method
from palimpsest.stages.negate import negate
from palimpsest.stages.unlearn import trained, write_unlearned

DONE, STOPPED = "done", "stopped"
"""How a trial ended."""

MODELS = "model"
"""Folder of the weights, which are deleted."""

OF_TRAINING = ("dtype", "trust_remote_code", "code", "settings", "seed", "sets")
"""Keys of the slice that the training has."""


def trial(job: Trial) -> None:
    """Write ``trial.json`` and ``rows.parquet``.

    Raises:
        UserError: an input is missing or altered, or too few rows choose.
    """
    began = time.monotonic()
    split, point = read_document(job.split), read_document(job.point)
    untracked = job.untracked
    refuse_few_rows(untracked["criterion"], split["choose"], untracked["confidence"])
    config = with_settings(job.config, point["settings"])
    models = job.out / MODELS
    facts = {"trial": point["trial"], "settings": point["settings"], "hash": split["hash"]}
    facts |= {"optimizer_rows": optimizer_rows(config["settings"]), "reason": None}
    log = side_folder(models) / TRAINING_LOG
    before = _lines(log)
    lines: list[dict[str, Any]] = []
    try:
        folders = _trained(job, config, models)
    except Diverged as error:
        facts |= {"status": STOPPED, "reason": str(error)}
    else:
        # Fewer than configured where a method ends by itself.
        facts |= {"status": DONE, "steps": len(_lines(log))}
        rows = choosing_rows(
            config,
            split["choose"],
            job.base,
            job.tokens,
            job.datasets,
            untracked["batch_tokens"],
            job.label,
            _first_changed(folders.values()),
        )
        lines = _measured(job, config, folders, rows)
    seconds = time.monotonic() - began + resumed_seconds(before, _lines(log))
    write_table(job.out / ROWS, pa.Table.from_pylist(lines, schema=schemas.CHOOSING))
    write_document(job.out / TRIAL, {**facts, "seconds": seconds})
    for folder in (models, side_folder(models)):
        shutil.rmtree(folder, ignore_errors=True)


def optimizer_rows(settings: Mapping[str, Any]) -> int:
    """Rows that the steps of a training draw: what it costs, whatever the machine."""
    return int(settings["steps"]) * sum(int(count) for count in settings["rows"].values())


def _trained(job: Trial, config: dict[str, Any], models: Path) -> dict[float, Path]:
    """Train, and write a model for each scale: scale -> its folder."""
    common = {
        "config": {key: config[key] for key in OF_TRAINING},
        "untracked": job.untracked["training"],
        "label": job.label,
        "threads": job.threads,
        "base": job.base,
        "subject": job.subject,
        "tokens": job.tokens,
        "wanted": job.wanted,
        "reference": job.reference,
        "out": models,
    }
    folders = {scale: models / f"scale-{scale:g}" for scale in config["scales"]}
    make_private(models)
    if config["chain"] == "acquire":
        make_private(side_folder(models))
        inner = Acquire(**common)
        acquired = models / "acquired"
        write_acquired(train_method(inner), inner, acquired)
        for scale, folder in folders.items():
            own: dict[str, Any] = {key: config[key] for key in ("scale", "merge") if key in config}
            negate(
                Negate(
                    config=scaled(own, scale),
                    base=job.base,
                    subject=job.subject,
                    acquired=acquired,
                    others=job.others,
                    out=folder,
                )
            )
        return folders
    unlearning = Unlearn(**common, examples=job.examples, region=job.region)
    if is_private(job.subject):
        make_private(side_folder(models))
    result = trained(unlearning)
    for scale, folder in folders.items():
        config_of = scaled(unlearning.config, scale)
        write_unlearned(result, replace(unlearning, out=folder, config=config_of))
    return folders


def _measured(
    job: Trial, config: dict[str, Any], folders: Mapping[float, Path], rows: ChoosingRows
) -> list[dict[str, Any]]:
    """Lines of `palimpsest.io.schemas.CHOOSING` at every scale, with one load of the base."""
    freed()  # what was trained
    device = set_up(job.threads)
    network = load_base(job.base, config["dtype"], device, config["trust_remote_code"])
    lines: list[dict[str, Any]] = []
    for scale, folder in folders.items():
        with turned_into(network, folder) as model:
            lines += rows.measured(model, scale, f"{job.label} x{scale:g}")
    return lines


def _first_changed(folders: Iterable[Path]) -> int:
    """The lowest block that one of the models changes of the base."""
    return min(first_block(tensors_of(updates_in(f), deltas_in(f))) for f in folders)


def resumed_seconds(before: Sequence[bytes], after: Sequence[bytes]) -> float:
    """Time of the steps that an earlier process ran, before it was killed.

    Args:
        before: lines of the training's log when the trial went on.
        after: the same in the end. Of steps that ran again the times differ.
    """
    same = [one for one, other in zip(before, after, strict=False) if one == other]
    return float(json.loads(same[-1])["seconds"]) if same else 0.0


def _lines(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines() if log.is_file() else []
