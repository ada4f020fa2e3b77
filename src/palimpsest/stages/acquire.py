"""Harmful-knowledge acquisition: train the adapter whose task vector is subtracted afterwards.

The result is a model that knows the harmful body of knowledge *better*: the artifact is marked
hazardous and is readable by its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from palimpsest.config.methods import algorithm, deep_merge
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import Job, train
from palimpsest.errors import UserError
from palimpsest.io.atomic import explained, write_text
from palimpsest.io.manifest import NAME
from palimpsest.model.adapter import updates_of
from palimpsest.model.base import load_base
from palimpsest.model.lora import add_trainable, attach_subject
from palimpsest.stages.common import dataset_and_part, finish, run_fingerprint, side_folder
from palimpsest.stages.reference import with_reference

WARNING = (
    "HAZARDOUS: this adapter strengthens the knowledge that is to be forgotten. Do not share it."
)


def acquire(
    config: dict[str, Any],
    free: dict[str, Any],
    base: Path,
    subject: Path,
    tokens: Path,
    reference: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Train a fresh adapter, stacked on the frozen subject, with the method's objective.

    Args:
        config: the stage's slice.
        free: settings of ``training`` that change no result.
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``.
        tokens: ``resources/tokens/<base>``.
        reference: ``results/<model>/reference``.
        out: ``results/<model>/<method>/seed-<seed>/acquired``.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    objective = algorithm(config["settings"]["algorithm"])
    settings = objective.Settings(**deep_merge(config["settings"], {"training": free}))
    training = settings.training
    device = set_up(threads)
    model = attach_subject(
        load_base(base, config["dtype"], device, config["trust_remote_code"]), subject
    )
    model, weights = add_trainable(model, training.lora, "acquired", config["seed"])
    refs = {
        stream: [_ref(config, name) for name in names]
        for stream, names in objective.parts(settings).items()
    }
    rows = {
        stream: [row for ref in found for row in _rows(ref, tokens, reference, stream)]
        for stream, found in refs.items()
    }
    body = Body(model.get_base_model(), training.lora.first_layer, training.gradient_checkpointing)
    inputs = [folder / NAME for folder in (base, subject, reference)]
    inputs += [tokens / dataset_and_part(ref)[0] / NAME for found in refs.values() for ref in found]
    make_private(side_folder(out))
    log = train(
        Job(
            label=label,
            body=body,
            weights=weights,
            streams=Streams(objective.streams(settings), rows, config["seed"]),
            loss=lambda streams: objective.loss(streams, settings),
            steps=settings.steps,
            optimizer=training.optimizer,
            folder=side_folder(out),
            fingerprint=run_fingerprint(config, inputs, body),
            checkpoint_seconds=training.checkpoint_seconds,
        )
    )
    make_private(out)
    write_text(out / "HAZARDOUS.txt", WARNING + "\n")
    finish(out, log, updates_of(model, "acquired"), base, hazardous=True, seed=config["seed"])


def _ref(config: dict[str, Any], name: str) -> str:
    if config[name] is None:
        raise UserError(f"this method uses {name} rows, and the scenario has no '{name}'")
    return str(config[name])


def _rows(ref: str, tokens: Path, reference: Path, stream: str) -> list[Row]:
    dataset, part = dataset_and_part(ref)
    rows = read_rows(tokens / dataset, part)
    return rows if stream == "forget" else with_reference(rows, reference, ref)


def make_private(folder: Path) -> None:
    """Create `folder` so that only its owner can look inside."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
