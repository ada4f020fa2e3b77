"""Chooses a method's settings among all trials of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import CHOSEN, ROWS, TRIAL, TRIALS
from palimpsest.io.canonical import canonical_json
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics import choose as chooser
from palimpsest.metrics.choose import COLUMNS, Choice, Measured, Point, Trial, values_of
from palimpsest.metrics.estimates import rounded
from palimpsest.pipeline.points import turn_of
from palimpsest.pipeline.stages import Choose


def choose(job: Choose) -> None:
    """Write ``chosen.json`` and ``trials.parquet``.

    Raises:
        UserError: an input is missing or altered, too few rows choose, or every trial was stopped.
    """
    config, split = job.config, read_document(job.split)
    chooser.refuse_few_rows(config["criterion"], split["choose"], config["confidence"])
    trials = [read_trial(folder, split["hash"]) for folder in job.trials]
    original = read_measured(job.original)[1.0]
    retrained = None if job.retrained is None else read_measured(job.retrained)[1.0]
    found = chooser.choose(
        trials,
        original,
        retrained,
        config["criterion"],
        config["confidence"],
        config["bootstrap"],
    )
    lines = [_line(point, found) for point in found.points]
    lines += [_stopped(trial) for trial in found.stopped]
    lines.sort(key=lambda line: (line["trial"], line["scale"]))
    write_table(job.out / TRIALS, pa.Table.from_pylist(lines, schema=schemas.TRIALS))
    write_document(job.out / CHOSEN, _chosen(found, config, split, trials))
    point = found.chosen
    print(
        f"{config['model']}/{config['method']}: {point.trial.name} times {point.scale:g} of "
        f"{len(trials)} trials: {found.why}"
    )


def read_trial(folder: Path, rows_hash: str) -> Trial:
    """Read what a trial wrote.

    Args:
        folder: of the trial.
        rows_hash: identity of the rows that choose.

    Raises:
        UserError: a file is missing or altered, or was measured on other rows.
    """
    facts = read_document(folder / TRIAL)
    if facts["hash"] != rows_hash:
        raise UserError(
            f"{folder / TRIAL} was measured on other rows than split.json names; delete it and run "
            "the same command again"
        )
    return Trial(
        name=facts["trial"],
        number=turn_of(facts["trial"]),
        settings=facts["settings"],
        status=facts["status"],
        reason=facts["reason"],
        seconds=facts["seconds"],
        optimizer_rows=facts["optimizer_rows"],
        points=read_measured(folder / ROWS),
    )


def read_measured(table: Path) -> dict[float, Measured]:
    """Scale -> the rows of a table that were measured at it.

    Raises:
        UserError: the table is missing or altered.
    """
    frame = read_table(table)[0].to_pandas()
    found = {}
    for scale, lines in frame.groupby("scale"):
        values, groups, ids = {}, {}, {}
        for part, rows in lines.sort_values("id").groupby("part"):
            for column in COLUMNS.values():
                present = rows[rows[column].notna()]
                if len(present):
                    place = str(part), column
                    values[place] = present[column].to_numpy(dtype=float)
                    groups[place] = np.array(present["group"].tolist())
                    ids[place] = present["id"].tolist()
        found[float(scale)] = Measured(values, groups, ids)
    return found


def _line(point: Point, found: Choice) -> dict[str, Any]:
    trial = point.trial
    return {
        **_facts(trial),
        **values_of(point),
        "scale": point.scale,
        "x": None if point.x is None else rounded(point.x),
        "y": None if point.y is None else rounded(point.y),
        "feasible": point.feasible,
        "front": point.front,
        "chosen": point is found.chosen,
    }


def _stopped(trial: Trial) -> dict[str, Any]:
    flags = dict.fromkeys(("feasible", "front", "chosen"), False)
    return {**_facts(trial), "scale": 1.0, **flags}


def _facts(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.name,
        "settings": canonical_json(dict(trial.settings)),
        "status": trial.status,
        "reason": trial.reason,
        "seconds": trial.seconds,
        "optimizer_rows": trial.optimizer_rows,
    }


def _chosen(
    found: Choice, config: Mapping[str, Any], split: Mapping[str, Any], trials: list[Trial]
) -> dict[str, Any]:
    point = found.chosen
    counts = {name: len(split["choose"].get(name, ())) for name in ("forget", "retain", "general")}
    return {
        "plan": config["plan"],
        "trial": point.trial.name,
        "scale": point.scale,
        "settings": dict(point.trial.settings),
        "feasible": point.feasible,
        "why": found.why,
        "criterion": config["criterion"],
        "rows": {**counts, "hash": split["hash"]},
        "values": values_of(point),
        "trial0": None if found.trial0 is None else values_of(found.trial0),
        "trials": len(trials),
        "stopped": len(found.stopped),
        "seconds": sum(trial.seconds for trial in trials),
    }
