"""Harmful-knowledge acquisition: train the task vector that is subtracted afterwards.

The result is a model that knows the harmful body of knowledge *better*. So the artifact is marked
as hazardous, and only its owner can read it.
"""

from __future__ import annotations

import os
from pathlib import Path

from palimpsest.io.artifacts import HAZARDOUS
from palimpsest.io.atomic import explained, write_text
from palimpsest.model.adapter import updates_of
from palimpsest.pipeline.stages import Acquire
from palimpsest.stages.common import finish, finish_deltas, side_folder
from palimpsest.stages.method import train_method

WARNING = "HAZARDOUS: this strengthens the knowledge that is to be forgotten. Do not share it."


def acquire(job: Acquire) -> None:
    """Train a task vector with the method's objective, from its ``start``.

    fresh: an adapter on the frozen subject; weights: differences of the base's tensors.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    out = job.out
    make_private(side_folder(out))
    trained = train_method(job)
    make_private(out)
    write_text(out / HAZARDOUS, WARNING + "\n")
    facts = {"hazardous": True, "seed": job.config["seed"]}
    if trained.trainable.adapter is None:
        finish_deltas(out, trained.log, trained.trainable.weights, **facts)
    else:
        finish(
            out, trained.log, updates_of(trained.trainable.model, "unlearned"), job.base, **facts
        )


def make_private(folder: Path) -> None:
    """Create `folder` so that only its owner can read it."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
