"""Runs: models below their subject, by their path: ``sku/seed-0``, ``sku/seed-0/attacks/relearn``.

A run has a folder ``model`` with a ``model.json``; whatever made that, it can be measured, judged,
merged, asked and trained from.
"""

from __future__ import annotations

import re
from pathlib import Path

DERIVED = ("attacks", "tune")
"""Folders of a run that hold runs derived from it, each by a name."""

NAME = r"[\w-]+"
"""What such a run may be called."""


def pattern(method: str, seed: str = r"\d+") -> str:
    """Regular expression of a run; `method` and `seed` are those of its parts."""
    return rf"(?:{method})/seed-(?:{seed})(?:/(?:{'|'.join(DERIVED)})/{NAME})*"


RUN = re.compile(pattern(r"(?P<method>[^/]+)", r"(?P<seed>\d+)"))


def model_folder(model: str, run: str) -> Path:
    """Folder of a run's ``model.json``."""
    return Path("results") / model / run / "model"


def runs_of(model: str) -> list[str]:
    """Runs of a subject that are there, sorted."""
    root = Path("results") / model
    folders = [file.parents[1].relative_to(root) for file in root.rglob("model/model.json")]
    return sorted(str(folder) for folder in folders)
