"""Searches for settings with planted points, as the stage ``choose`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table

RATE = "training.optimizer.learning_rate"
POINTS = [
    # trial, scale, rate, steps, forgotten, kept, feasible, front, chosen
    ("r0-t000", 0.5, None, None, 0.2, 1.0, True, True, False),
    ("r0-t000", 1.0, None, None, 0.4, 0.8, False, False, False),
    ("r0-t001", 0.5, 1.25e-3, 16, 0.6, 0.95, True, True, True),
    ("r0-t001", 1.0, 1.25e-3, 16, 0.9, 0.3, False, True, False),
    ("r0-t002", 0.5, 4e-4, 32, 0.1, 1.0, True, False, False),
    ("r0-t002", 1.0, 4e-4, 32, 0.3, 0.9, False, False, False),
]
"""Trials at two scales each; a fourth one was stopped."""
REASON = "loss is not finite at step 3"
ROWS = {"forget": 12, "retain": 20, "general": 8, "hash": "a" * 64}
VALUES = {"forget": 0.4, "retain": 0.9, "general": 0.5, "degenerate": 0.0}
OWN = {"forget": 0.6, "retain": 0.78, "general": 0.5, "degenerate": 0.0}


def lines(feasible: bool = True) -> list[dict[str, Any]]:
    """Lines of trials.parquet; without `feasible` no point meets the conditions."""
    table = [
        {
            "trial": trial,
            "scale": scale,
            "settings": json.dumps({} if rate is None else {RATE: rate, "steps": steps}),
            "status": "done",
            "reason": None,
            "forget": 1 - x,
            "retain": y,
            "general": 0.5,
            "degenerate": 0.0,
            "x": x,
            "y": y,
            "feasible": feasible and met,
            "front": front,
            "chosen": chosen,
            "seconds": 40.0,
            "optimizer_rows": 8 * (steps or 24),
        }
        for trial, scale, rate, steps, x, y, met, front, chosen in POINTS
    ]
    ended = dict.fromkeys(("forget", "retain", "general", "degenerate", "x", "y"))
    flags = dict.fromkeys(("feasible", "front", "chosen"), False)
    settings = {"trial": "r0-t003", "scale": 1.0, "settings": json.dumps({RATE: 0.02, "steps": 64})}
    last = {"status": "stopped", "reason": REASON, "seconds": 9.0, "optimizer_rows": 24}
    return [*table, {**settings, **last, **ended, **flags}]


def write_search(folder: Path, feasible: bool = True) -> None:
    """The search of a method, and its record in eval.json.

    Args:
        folder: ``results/<model>/<method>`` with an eval.json.
        feasible: whether a point meets the conditions.
    """
    write_table(folder / "tune" / "trials.parquet", pa.Table.from_pylist(lines(feasible)))
    chosen = {
        "plan": "standard",
        "trial": "r0-t001",
        "scale": 0.5,
        "settings": {RATE: 1.25e-3, "steps": 16},
        "feasible": feasible,
        "why": "it keeps most",
        "criterion": {},
        "rows": ROWS,
        "values": VALUES,
        "trial0": OWN,
        "trials": 4,
        "stopped": 1,
        "seconds": 129.0,
    }
    write_document(folder / "tune" / "chosen.json", chosen)
    keys = ("plan", "trials", "stopped", "feasible", "criterion", "seconds", "trial0")
    tuning = {
        **{key: chosen[key] for key in keys},
        "chosen": {key: chosen[key] for key in ("trial", "scale", "settings")},
        "chosen_on": VALUES,
        "rows_hash": ROWS["hash"],
    }
    path = folder / "eval.json"
    evaluation = {k: v for k, v in read_document(path).items() if k != "seal"}
    write_document(path, {**evaluation, "tuning": tuning})
