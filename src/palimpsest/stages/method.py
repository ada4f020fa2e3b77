"""Training with a method's objective: what acquisition and unlearning have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from palimpsest.engine.assemble import body_of, job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.shards import shard
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.io.manifest import NAME
from palimpsest.model.trainable import Trainable, make_trainable
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import objective
from palimpsest.settings.draw import Draw
from palimpsest.settings.merge import deep_merge
from palimpsest.stages.common import (
    dataset_and_part,
    load_to_train,
    part_of,
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
class Files:
    """The rows of a method in files: a `palimpsest.engine.assemble.Source`.

    Attributes:
        inputs: where they are.
        sets: names of the scenario's sets -> ``dataset/part``, or None where it has none.
        end_token: the end-of-text token after a response is a target too.
    """

    inputs: Inputs
    sets: Mapping[str, str | None]
    end_token: bool

    def rows(self, name: str, reference: bool) -> list[Row]:
        """Rows of a set.

        Raises:
            UserError: the scenario has no such set, or a file is missing or altered.
        """
        ref = part_of(self.sets, name)
        dataset, part = dataset_and_part(ref)
        rows = read_rows(self.inputs.tokens / dataset, part, self.end_token)
        if not reference:
            return rows
        if self.inputs.reference is None:
            raise ValueError("a term compares with the subject, but no reference was given")
        return with_reference(rows, self.inputs.reference, ref)

    def examples(self, stream: str) -> list[Row]:
        """Labelled or mixed rows of a stream."""
        if self.inputs.examples is None:
            raise ValueError(f"stream {stream} needs examples")
        return read_examples(self.inputs.examples, stream)


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        trainable: the model and its trained tensors.
        log: the step log.
        fixed: tensors that the objective fixed before (control vector, random targets).
    """

    trainable: Trainable
    log: Path
    fixed: dict[str, Tensor]


def objective_of(config: Mapping[str, Any], free: Mapping[str, Any]) -> Objective:
    """The configured method of a stage's slice; `free` are settings that change no result."""
    return objective(deep_merge(config["settings"], {"training": free}))


def train_method(
    method: Objective,
    config: dict[str, Any],
    inputs: Inputs,
    region: Sequence[str] | None,
    out: Path,
    label: str,
    threads: int | None,
) -> Trained:
    """Train the subject with a method.

    Args:
        method: the configured method.
        config: the stage's slice: the base's type, sets, seed, and the identity of the run.
        inputs: where to read from.
        region: names of the subject's tensors that may change, None: all.
        out: folder of the result; checkpoints go beside it.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    device, seed = set_up(threads), config["seed"]
    base = load_to_train(config, inputs.base, device)
    trainable = make_trainable(base, inputs.subject, method.start, method.training, seed, region)
    shard(trainable.network, device)
    body = body_of(trainable.network, trainable.first_block, method.training)
    draws = method.draws()
    _refuse_trained_head(trainable, body, draws)
    job = job_of(
        method,
        streams_of(draws, Files(inputs, config["sets"], method.end_token), seed),
        body,
        trainable.weights,
        label=label,
        folder=side_folder(out),
        fingerprint=run_fingerprint(config, _manifests(config, inputs), body),
    )
    return Trained(trainable, train(job), job.fixed)


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
