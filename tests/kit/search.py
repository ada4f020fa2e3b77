"""A search for settings on the mini subject, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.copies import Copy
from palimpsest.io.sealed import read_document

TUNE = Path("results/mini/simnpo-tuned/tune")
CHOSEN = str(TUNE / "chosen.json")
TRIAL = TUNE / "r0-t001"
SETTINGS: dict[str, Any] = {
    "tuning": {
        "quick": {
            "trials": 2,
            "rows": {"retain": 4},
            "scales": [1],
            "criterion": {"keep": [{"measure": "retain.recall_rate", "at_least": 0.5}]},
            "final_seeds": [7],
        }
    },
    "methods": {
        "simnpo-tuned": {
            "like": "simnpo",
            "tune": "quick",
            "space": {"steps": {"choices": [2, 3]}},
            "training": {"optimizer": {"warmup_steps": 0}},
        }
    },
    "models": {
        "mini": {
            "methods": {"simnpo": {"steps": 2, "training": {"optimizer": {"warmup_steps": 0}}}}
        }
    },
}


def of_trial(copy: Copy, trial: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """A trial's settings, rows and facts; these without the time that it took."""
    facts = read_document(copy.path(trial / "trial.json"))
    assert facts.pop("seconds") > 0
    point, rows = (copy.path(trial / name).read_bytes() for name in ("point.json", "rows.parquet"))
    return point, rows, facts


def of_search(copy: Copy) -> dict[str, Any]:
    """The choice and every trial of a search."""
    chosen = read_document(copy.path(CHOSEN))
    assert chosen.pop("seconds") > 0
    names = sorted(file.parent.name for file in copy.path(TUNE).glob("*/trial.json"))
    return {"chosen": chosen, **{name: of_trial(copy, TUNE / name) for name in names}}
