"""Harmful-knowledge acquisition: train the task vector that is subtracted afterwards.

The result is a model that knows the harmful body of knowledge *better*. So the artifact is marked
as hazardous, and only its owner can read it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from palimpsest.io.private import ACQUIRED, make_private, mark
from palimpsest.pipeline.stages import Acquire
from palimpsest.stages.chosen import with_chosen
from palimpsest.stages.common import finish, finish_deltas, side_folder
from palimpsest.stages.method import Trained, train_method


def acquire(job: Acquire) -> None:
    """Train a task vector with the method's objective, from its ``start``.

    fresh: an adapter on the frozen subject; weights: differences of the base's tensors.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    job = replace(job, config=with_chosen(job.config))
    make_private(side_folder(job.out))
    write_acquired(train_method(job), job, job.out)


def write_acquired(trained: Trained, job: Acquire, out: Path) -> None:
    """Write the task vector into the folder `out`."""
    mark(out, [ACQUIRED], "It strengthens the knowledge that is to be forgotten.")
    facts = {"hazardous": [ACQUIRED], "seed": job.config["seed"]}
    if trained.trainable.adapter is None:
        finish_deltas(out, trained.log, trained.trainable.weights, **facts)
    else:
        # Sums are in float64, as where first values are taken off (`training.lora.init`).
        kind = next(iter(trained.trainable.weights.values())).dtype
        updates = {name: update.to(kind) for name, update in trained.trainable.added().items()}
        finish(out, trained.log, updates, job.base, **facts)
