"""Training with a method's objective: what acquisition and unlearning have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from palimpsest.config.methods import algorithm, deep_merge
from palimpsest.engine.body import FINAL, Body
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import Streams
from palimpsest.engine.shards import shard
from palimpsest.engine.train import Job, first_values, run, train
from palimpsest.errors import UserError
from palimpsest.io.manifest import NAME
from palimpsest.model.trainable import Trainable, make_trainable
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import MethodSettings, Start
from palimpsest.stages.common import (
    dataset_and_part,
    load_to_train,
    run_fingerprint,
    side_folder,
)
from palimpsest.stages.examples import read_examples
from palimpsest.stages.reference import with_reference


@dataclass(frozen=True)
class Inputs:
    """Where a method reads from.

    Attributes:
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``.
        tokens: ``resources/tokens/<base>``.
        reference: ``results/<model>/reference``; None if no term compares with the subject.
        examples: ``.../seed-<seed>/examples``; None if no stream is labelled or mixed.
        region: ``.../seed-<seed>/region.json``; None if nothing restricts what is trained.
    """

    base: Path
    subject: Path
    tokens: Path
    reference: Path | None = None
    examples: Path | None = None
    region: Path | None = None


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        trainable: the model and its trained tensors.
        log: the step log.
        vectors: fixed tensors of the objective (control vector, random targets).
    """

    trainable: Trainable
    log: Path
    vectors: dict[str, Tensor]


def settings_of(config: Mapping[str, Any], free: Mapping[str, Any]) -> MethodSettings:
    """The method's settings from a stage's slice."""
    found: MethodSettings = algorithm(config["settings"]["algorithm"]).Settings(
        **deep_merge(config["settings"], {"training": free})
    )
    return found


def train_method(
    config: dict[str, Any],
    free: dict[str, Any],
    inputs: Inputs,
    start: Start,
    region: Sequence[str] | None,
    out: Path,
    label: str,
    threads: int | None,
) -> Trained:
    """Train the subject with the method's objective.

    Args:
        config: the stage's slice.
        free: settings of ``training`` that change no result.
        inputs: where to read from.
        start: what is trained.
        region: names of the subject's tensors that may change, None: all.
        out: folder of the result; checkpoints go beside it.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    objective = algorithm(config["settings"]["algorithm"])
    settings = settings_of(config, free)
    training = settings.training
    device = set_up(threads)
    base = load_to_train(config, inputs.base, device)
    trainable = make_trainable(base, inputs.subject, start, training, config["seed"], region)
    shard(trainable.network, device)
    body = Body(
        trainable.network,
        trainable.first_block,
        training.gradient_checkpointing,
        training.compile,
    )
    draws: dict[str, Draw] = objective.draws(settings)
    _refuse_trained_head(trainable, body, draws)
    streams = _streams(draws, config, settings, inputs)
    job = Job(
        label=label,
        body=body,
        weights=trainable.weights,
        streams=streams,
        loss=lambda found: objective.loss(found, settings),
        steps=settings.steps,
        optimizer=training.optimizer,
        folder=side_folder(out),
        fingerprint=run_fingerprint(config, _manifests(config, inputs), body),
        checkpoint_seconds=training.checkpoint_seconds,
        reads=objective.reads(settings) if hasattr(objective, "reads") else FINAL,
        finished=(lambda found: objective.finished(found, settings))
        if hasattr(objective, "finished")
        else None,
    )
    vectors = {}
    if hasattr(objective, "prepare"):
        vectors = _prepared(objective, job, settings, config["seed"])
        job = replace(job, loss=lambda found: objective.loss(found, settings, vectors))
    return Trained(trainable, train(job), vectors)


@torch.no_grad()
def _prepared(
    objective: ModuleType, job: Job, settings: MethodSettings, seed: int
) -> dict[str, Tensor]:
    untrained = first_values(job.weights) if job.reads.untrained else {}
    first = run(job, job.streams.draw(0), untrained)
    ids = {name: torch.cat([row.ids for row in rows]) for name, rows in job.streams.parts.items()}
    found: dict[str, Tensor] = objective.prepare(first, ids, settings, seed)
    return found


def _streams(
    draws: Mapping[str, Draw], config: dict[str, Any], settings: MethodSettings, inputs: Inputs
) -> Streams:
    def read(sets: Sequence[str], reference: bool) -> list[Row]:
        rows: list[Row] = []
        for name in sets:
            ref = _ref(config, name)
            dataset, part = dataset_and_part(ref)
            found = read_rows(inputs.tokens / dataset, part, settings.end_token)
            rows += _with_reference(found, inputs, ref) if reference else found
        return rows

    def labelled(name: str, draw: Draw) -> list[Row]:
        if inputs.examples is None:
            raise ValueError(f"stream {name} needs examples")
        rows = read_examples(inputs.examples, name)
        if not draw.reference:
            return rows
        states = {r.id: r.reference for r in read(draw.sets[1:], reference=True)}
        return [replace(row, reference=states.get(row.id)) for row in rows]

    parts = {
        name: labelled(name, draw) if draw.examples else read(draw.sets, draw.reference)
        for name, draw in draws.items()
        if not draw.answers_of
    }
    pools = {n: read(d.answers_of, reference=False) for n, d in draws.items() if d.answers_of}
    sizes = {name: draw.rows for name, draw in draws.items()}
    return Streams(sizes, parts, config["seed"], pools)


def _ref(config: dict[str, Any], name: str) -> str:
    if config["sets"][name] is None:
        raise UserError(f"this method uses {name} rows, and the scenario has no '{name}'")
    return str(config["sets"][name])


def _with_reference(rows: list[Row], inputs: Inputs, ref: str) -> list[Row]:
    if inputs.reference is None:
        raise ValueError("a term compares with the subject, but no reference was given")
    return with_reference(rows, inputs.reference, ref)


def _refuse_trained_head(trainable: Trainable, body: Body, draws: Mapping[str, Draw]) -> None:
    # The reference is hidden states: its logits follow from the head only while that is frozen.
    head = {id(p) for p in body.head.parameters() if p.requires_grad}
    if head & {id(w) for w in trainable.weights.values()} and any(
        draw.reference for draw in draws.values()
    ):
        raise UserError(
            "training.parameters matches the language-model head (perhaps as the tied "
            "embeddings), and a term compares with the subject, whose logits need the head as it "
            "was; leave the head out or use retain_term: ce"
        )


def _manifests(config: dict[str, Any], inputs: Inputs) -> list[Path]:
    found = [inputs.base / NAME, inputs.subject / NAME]
    found += [folder / NAME for folder in (inputs.reference, inputs.examples) if folder]
    found += [inputs.region] if inputs.region else []
    refs = [ref for ref in config["sets"].values() if ref]
    return found + [inputs.tokens / dataset_and_part(ref)[0] / NAME for ref in refs]
