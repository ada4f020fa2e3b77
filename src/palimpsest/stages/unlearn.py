"""Unlearning: train the subject with a method's objective."""

from __future__ import annotations

import shutil
from functools import partial

from safetensors.torch import save_file

from palimpsest.io.artifacts import MODEL, TRAINING_LOG, VECTORS
from palimpsest.io.atomic import atomic_path, is_private
from palimpsest.io.private import BEFORE, make_private, mark
from palimpsest.io.sealed import read_document
from palimpsest.model.adapter import add, updates_of
from palimpsest.model.delta import sums, write_deltas
from palimpsest.model.description import deltas_in, hazards_in, manifest_of, updates_in, write_model
from palimpsest.pipeline.stages import Unlearn
from palimpsest.stages.common import copy_log, side_folder
from palimpsest.stages.method import Trained, train_method


def unlearn(job: Unlearn) -> None:
    """Train, and describe the unlearned model relative to its base.

    Raises:
        UserError: an input is missing or altered, nothing would be trained, training diverged.
    """
    if is_private(job.subject):
        make_private(side_folder(job.out))  # an early checkpoint is nearly the subject
    region = None if job.region is None else read_document(job.region)["tensors"]
    result = train_method(job, region)
    _write(result, job)
    shutil.rmtree(side_folder(job.out), ignore_errors=True)


def hazards_of(job: Unlearn, trained: str | None) -> list[str]:
    """What stands in the files of the unlearned model besides it.

    A second adapter, and differences of base tensors, are added to the adapter of the model that
    training started from, which stays as it was.

    Args:
        job: its ``subject`` is that model.
        trained: `palimpsest.model.trainable.Trainable.adapter`.
    """
    start = job.subject
    # A trained copy of the subject's one adapter replaces it; of an adapter that is itself put
    # together, the parts can still be told apart after a short training.
    passed_on = hazards_in(start) if manifest_of(start) == MODEL else []
    kept = [BEFORE] if trained != "subject" and updates_in(start) else []
    return list(dict.fromkeys([*passed_on, *kept]))


def _write(result: Trained, job: Unlearn) -> None:
    trainable, files, out = result.trainable, [TRAINING_LOG], job.out
    hazardous = hazards_of(job, trainable.adapter)
    mark(out, hazardous)
    copy_log(result.log, out)
    if result.fixed:
        with atomic_path(out / VECTORS) as temporary:
            save_file({k: v.contiguous() for k, v in result.fixed.items()}, temporary)
        files.append(VECTORS)
    updates, deltas = updates_in(job.subject), deltas_in(job.subject)
    if trainable.adapter == "unlearned":
        updates = add(updates, trainable.added(), 1.0)
    elif trainable.adapter == "subject":
        updates = updates_of(trainable.model, "subject")
    else:
        deltas = sums(deltas, trainable.weights)
    steps = sum(1 for _ in (out / TRAINING_LOG).open("rb"))
    write_model(
        out,
        job.base,
        updates,
        partial(write_deltas, deltas=deltas) if deltas else None,
        tuple(files),
        hazardous,
        trained_parameters=sum(w.numel() for w in trainable.weights.values()),
        trained_tensors=len(trainable.weights),
        steps=steps,
        seed=job.config["seed"],
    )
