"""Models with invented results, as a verdict is passed on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from palimpsest.config.criteria import Criteria
from palimpsest.metrics.estimates import rate
from palimpsest.metrics.verdict import Model

SCORE = {"confidence": 0.95, "bootstrap": 200}


def estimate(value: float, low: float, high: float, n: int = 108) -> dict[str, Any]:
    return {"value": value, "ci95": [low, high], "n": n, "sd": None, "reason": None}


def robust(
    value: float | None = 0.0, low: float = -0.05, high: float = 0.05, **attacks: Any
) -> dict[str, Any]:
    """robust.json with attacks of the given power."""
    attacks = attacks or {"choice": 1.0, "relearn": 0.9}
    found = estimate(0, low, high) | {"value": value, "reason": None if value is not None else "x"}
    blocks = {
        name: {
            "kind": name.split("-")[0],
            "power": {"value": power},
            "recovered": {"value": 0.0},
            "settings": {"": {}},
            "diverged": [],
            "without_value": [],
            "weak": False,
            "weak_why": None,
        }
        for name, power in attacks.items()
    }
    level = {"recoverable": found, "worst": "relearn", "tested": sorted(attacks)}
    return {
        "by_level": dict.fromkeys(("text", "decoding", "weights", "training", "files"), level),
        "attacks": blocks,
        "form": {},
        "weights": ["0" * 64],
        "not_tested": {"lens": "not run"},
    }


def model(name: str, forget: str, retain: str = "1" * 108, **more: Any) -> Model:
    """What was measured of a model: a string of zeros and ones for each block."""
    parts = {"forget": forget, "retain": retain}
    lines, metrics = [], {}
    for part, values in parts.items():
        table = np.array([[value == "1" for value in values]], dtype=float)
        metrics[part] = {"recall_rate": rate(table, np.arange(len(values)), SCORE)}
        lines += [
            {
                "seed": 0,
                "part": part,
                "id": f"{part}{i:03}",
                "group": f"{part}{i:03}",
                "recall": value == "1",
            }
            for i, value in enumerate(values)
        ]
    return Model(
        name, metrics | more.get("metrics", {}), pd.DataFrame(lines), more.get("robust", robust())
    )


NOTHING, ALL = "0" * 108, "1" * 108
REFERENCES = {
    "original": model("original", ALL, robust=robust(1.0, 0.9, 1.1)),
    "retrained": model("retrained", NOTHING),
}


def criteria(*conditions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Checked criteria, as a stage gets them."""
    more.setdefault("attacks", {"require": ["choice", "relearn"]})
    return Criteria(conditions=list(conditions), **more).model_dump()


AUDIT = criteria(
    {"measure": "forget.recall_rate", "at_most": 0.10, "above": "retrained"},
    {"measure": "robust.recoverable", "at_most": 0.20},
    {"measure": "retain.recall_rate", "at_least": 0.90, "of": "original"},
)
