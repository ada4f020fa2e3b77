"""Unlearning: train the subject with a method's objective."""

from __future__ import annotations

import shutil
from functools import partial

from safetensors.torch import save_file

from palimpsest.io.artifacts import TRAINING_LOG, VECTORS
from palimpsest.io.atomic import atomic_path
from palimpsest.io.sealed import read_document
from palimpsest.model.adapter import add, updates_of
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.pipeline.stages import Unlearn
from palimpsest.stages.common import copy_log, side_folder
from palimpsest.stages.method import Trained, train_method
from palimpsest.stages.negate import subject_update


def unlearn(job: Unlearn) -> None:
    """Train, and describe the unlearned model relative to its base.

    Raises:
        UserError: an input is missing or altered, nothing would be trained, training diverged.
    """
    region = None if job.region is None else read_document(job.region)["tensors"]
    result = train_method(job, region)
    _write(result, job)
    shutil.rmtree(side_folder(job.out), ignore_errors=True)


def _write(result: Trained, job: Unlearn) -> None:
    trainable, files, out = result.trainable, [TRAINING_LOG], job.out
    copy_log(result.log, out)
    if result.fixed:
        with atomic_path(out / VECTORS) as temporary:
            save_file({k: v.contiguous() for k, v in result.fixed.items()}, temporary)
        files.append(VECTORS)
    subject = subject_update(job.subject)
    deltas = None
    if trainable.adapter == "unlearned":
        updates = add(subject, updates_of(trainable.model, "unlearned"), 1.0)
    elif trainable.adapter == "subject":
        updates = updates_of(trainable.model, "subject")
    else:
        updates, deltas = subject, partial(write_deltas, deltas=trainable.weights)
    steps = sum(1 for _ in (out / TRAINING_LOG).open("rb"))
    write_model(
        out,
        job.base,
        updates,
        deltas,
        tuple(files),
        trained_parameters=sum(w.numel() for w in trainable.weights.values()),
        trained_tensors=len(trainable.weights),
        steps=steps,
        seed=job.config["seed"],
    )
