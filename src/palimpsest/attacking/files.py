"""Slices of a model's files, and what else of it lies beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palimpsest.attacking.weights import Change
from palimpsest.attacks.files import FIRST, PARTS
from palimpsest.io.artifacts import HAZARDOUS, MODEL
from palimpsest.io.atomic import is_private

Slice = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Factors of ranks and differences, as `palimpsest.attacking.weights.Weighted.set` takes them."""


def slices_of(change: Change, original: Change) -> dict[str, Slice]:
    """The slices of `palimpsest.attacks.files.PARTS` without those that are equal.

    Without any part the model is its base, which is public: no file gives that away.

    Args:
        change: what the published model adds to its base.
        original: what the model before unlearning adds; its ranks tell where to cut.
    """
    ranks = {name: len(update.a) for name, update in change.updates.items()}
    cuts = {
        name: min(rank, len(original.updates[name].a)) if name in original.updates else 0
        for name, rank in ranks.items()
    }
    there = (
        any(cuts.values()),
        any(cuts[name] < rank for name, rank in ranks.items()),
        bool(change.deltas),
    )

    def seen(factors: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(f for f, is_there in zip(factors, there, strict=True) if is_there)

    def cut(first: int, rest: int, delta: int) -> Slice:
        factors = {
            name: torch.tensor([first] * cuts[name] + [rest] * (rank - cuts[name]))
            for name, rank in ranks.items()
        }
        return factors, {name: delta * value for name, value in change.deltas.items()}

    found: dict[str, Slice] = {}
    known = {seen((1, 1, 1)), seen((0, 0, 0))}
    for name, factors in PARTS.items():
        if name == FIRST or seen(factors) not in known:
            known.add(seen(factors))
            found[name] = cut(*factors)
    return found


KEPT = {
    "acquired": "the acquired knowledge",
    "reference": "what the model before unlearning computes",
    "subject": "the model before unlearning",
}
"""Folder -> what it holds, whether or not it says so itself."""


def beside(model: Path, subject: Path) -> list[dict[str, Any]]:
    """Folders with parts of what was forgotten, in the folders of the run and of the subject.

    Folders that are marked hazardous, those of `KEPT`, and checkpoints, which hold the weights and
    the optimizer's state of a training that was stopped.

    Args:
        model: ``<run>/model``.
        subject: ``results/<model>/subject``.

    Returns:
        For each folder its ``path`` (from ``results/<model>`` on), what it ``holds``, and whether
        only its owner can read it (``private``), sorted by path.
    """
    root = subject.parent
    places = [model.parent, subject, root / "original", root / "reference"]
    places += root.glob("subject*.ckpt")
    places += root.glob("*/tune/*")  # of a trial that was stopped
    found = {
        path: holds
        for place in places
        for path in _folders(place)
        if path.parent.name != ATTACKS and (holds := _holds(path)) is not None
    }
    return [
        {
            "path": Path(os.path.relpath(path, root)).as_posix(),
            "holds": holds,
            "private": any(is_private(above) for above in (path, *_between(path, root))),
        }
        for path, holds in sorted(found.items())
        # What lies in a folder that is named already, such as files of a checkpoint, adds nothing.
        if not found.keys() & set(_between(path, root))
    ]


ATTACKS = "attacks"
"""Folder of the tables of attacks, with this attack's own cells."""


def _folders(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield place
        yield from (path for path in place.rglob("*") if path.is_dir())


def _between(path: Path, root: Path) -> list[Path]:
    """The folders above `path` that are below `root`."""
    return [above for above in path.parents if root in above.parents]


def _holds(path: Path) -> str | None:
    note = path / HAZARDOUS
    if note.is_file():
        first = note.read_text(encoding="utf-8").partition(". ")[0]
        return first.removeprefix("HAZARDOUS: this folder holds ")
    if path.name in KEPT and not (path / MODEL).exists():
        return KEPT[path.name]
    return "a checkpoint of the training" if path.suffix == ".ckpt" else None
