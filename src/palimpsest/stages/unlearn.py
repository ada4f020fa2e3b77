"""Unlearning: train the subject with a method's objective; what comes out is the result."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from palimpsest.engine.train import LOG
from palimpsest.io.atomic import atomic_path
from palimpsest.io.sealed import read_document
from palimpsest.model.adapter import add, updates_of
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.settings.method import UnlearnSettings
from palimpsest.stages.common import copy_log, side_folder
from palimpsest.stages.method import Inputs, Trained, settings_of, train_method
from palimpsest.stages.negate import subject_update

VECTORS = "vectors.safetensors"
"""Fixed tensors of the objective: RMU's control vector, random matching's targets."""


def unlearn(
    config: dict[str, Any],
    free: dict[str, Any],
    inputs: Inputs,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Train, and describe the unlearned model relative to its base.

    Args:
        config: the stage's slice.
        free: settings of ``training`` that change no result.
        inputs: where to read from.
        out: ``results/<model>/<method>/seed-<seed>/model``.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, nothing would be trained, training diverged.
    """
    settings = settings_of(config, free)
    assert isinstance(settings, UnlearnSettings)
    region = None
    if inputs.region is not None:
        region = read_document(inputs.region)["tensors"]
    done = train_method(config, free, inputs, settings.start, region, out, label, threads)
    _write(done, inputs, out, config["seed"])
    shutil.rmtree(side_folder(out), ignore_errors=True)


def _write(done: Trained, inputs: Inputs, out: Path, seed: int) -> None:
    trained, files = done.trainable, [LOG]
    copy_log(done.log, out)
    if done.vectors:
        with atomic_path(out / VECTORS) as temporary:
            save_file({k: v.contiguous() for k, v in done.vectors.items()}, temporary)
        files.append(VECTORS)
    subject = subject_update(inputs.subject)
    deltas = None
    if trained.adapter == "unlearned":
        updates = add(subject, updates_of(trained.model, "unlearned"), 1.0)
    elif trained.adapter == "subject":
        updates = updates_of(trained.model, "subject")
    else:
        updates, deltas = subject, partial(write_deltas, deltas=trained.weights)
    steps = sum(1 for _ in (out / LOG).open("rb"))
    write_model(
        out,
        inputs.base,
        updates,
        deltas,
        tuple(files),
        trained_parameters=sum(w.numel() for w in trained.weights.values()),
        trained_tensors=len(trained.weights),
        steps=steps,
        seed=seed,
    )
