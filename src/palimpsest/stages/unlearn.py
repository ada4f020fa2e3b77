"""Unlearning: train the subject with a method's objective."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import Any

from safetensors.torch import save_file

from palimpsest.io.artifacts import TRAINING_LOG, VECTORS
from palimpsest.io.atomic import atomic_path, is_private
from palimpsest.io.private import BEFORE, make_private, mark
from palimpsest.io.sealed import read_document
from palimpsest.model.adapter import add, updates_of
from palimpsest.model.delta import sums, write_deltas
from palimpsest.model.description import deltas_in, updates_in, write_model
from palimpsest.model.joined import joined, shows_start, tensors_of
from palimpsest.pipeline.stages import Unlearn
from palimpsest.stages.chosen import FACTOR, with_chosen
from palimpsest.stages.common import copy_log, side_folder
from palimpsest.stages.method import Trained, train_method


def unlearn(job: Unlearn) -> None:
    """Train, and describe the unlearned model relative to its base.

    Raises:
        UserError: an input is missing or altered, nothing would be trained, training diverged.
    """
    job = replace(job, config=with_chosen(job.config))
    write_unlearned(trained(job), job)
    shutil.rmtree(side_folder(job.out), ignore_errors=True)


def trained(job: Unlearn) -> Trained:
    """Train; the checkpoints stay in the side folder.

    Raises:
        UserError: as `unlearn` raises.
    """
    if is_private(job.subject):
        make_private(side_folder(job.out))  # an early checkpoint is nearly the subject
    region = None if job.region is None else read_document(job.region)["tensors"]
    return train_method(job, region)


def write_unlearned(result: Trained, job: Unlearn) -> None:
    """Describe the unlearned model, with its change of the subject times a tuned factor."""
    trainable, files, out = result.trainable, [TRAINING_LOG], job.out
    updates, deltas = updates_in(job.subject), deltas_in(job.subject)
    held, factor = tensors_of(updates, deltas), job.config.get(FACTOR, 1.0)
    facts: dict[str, Any] = {} if factor == 1.0 else {FACTOR: factor}
    if trainable.adapter == "subject":
        # A trained copy of the start's one adapter stands in its place.
        own = updates_of(trainable.model, "subject")
        changed = tensors_of({name.partition(".lora_")[0] for name in trainable.weights}, [])
        if factor == 1.0:
            updates = own
        else:
            total = joined(add(add({}, updates, 1.0 - factor), own, factor), deltas)
            updates, deltas, facts = total.updates, total.deltas, facts | total.facts
    else:
        added = trainable.added() if trainable.adapter else {}
        weights = {} if trainable.adapter else trainable.weights
        changed = tensors_of(added, weights)
        if factor != 1.0:
            weights = {name: factor * value.detach() for name, value in weights.items()}
        total = joined(add(updates, added, factor), sums(deltas, weights))
        updates, deltas, facts = total.updates, total.deltas, facts | total.facts
    hazardous = [BEFORE] if shows_start(held, changed) else []
    mark(out, hazardous)
    copy_log(result.log, out)
    if result.fixed:
        with atomic_path(out / VECTORS) as temporary:
            save_file({k: v.contiguous() for k, v in result.fixed.items()}, temporary)
        files.append(VECTORS)
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
        **facts,
    )
