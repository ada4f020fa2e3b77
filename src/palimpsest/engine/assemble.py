"""Puts a training job together: an objective, the rows that it draws, the trained tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, first_values, run
from palimpsest.settings.draw import Draw, Kind
from palimpsest.settings.training import Training

if TYPE_CHECKING:
    from palimpsest.objectives.base import Objective


class Source(Protocol):
    """Where the rows of a training come from."""

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of the set `name`; with a `reference`, each has what the subject computes on it."""

    def examples(self, stream: str) -> list[Row]:
        """Rows of a stream that an earlier stage wrote (`Draw.examples`), without states."""


@dataclass(frozen=True)
class Sets:
    """Rows in memory, with the states that they bring."""

    sets: Mapping[str, Sequence[Row]]

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of a set."""
        return list(self.sets[name])

    def examples(self, stream: str) -> list[Row]:
        """Fails: rows in memory have no examples."""
        raise ValueError(f"stream {stream} needs examples")


def streams_of(draws: Mapping[str, Draw], source: Source, seed: int) -> Streams:
    """The rows of every stream.

    Args:
        draws: what each stream reads.
        source: where the rows come from.
        seed: seed of all draws.

    Raises:
        UserError: a set is missing or empty, or smaller than a step; no stream is left.
    """

    def read(names: Sequence[str], reference: Kind | None) -> list[Row]:
        return [row for name in names for row in source.rows(name, reference)]

    def examples(stream: str, draw: Draw) -> list[Row]:
        rows = source.examples(stream)
        if not draw.reference:
            return rows
        # The first set of a mixture is to be forgotten: its rows are compared with nothing.
        compared = {row.id: row for row in read(draw.compared, draw.reference)}
        return [with_reference_of(row, compared.get(row.id)) for row in rows]

    parts = {
        name: examples(name, draw) if draw.examples else read(draw.sets, draw.reference)
        for name, draw in draws.items()
        if not draw.answers_of
    }
    pools = {n: read(d.answers_of, None) for n, d in draws.items() if d.answers_of}
    sizes = {name: draw.rows for name, draw in draws.items()}
    return Streams(sizes, parts, seed, pools)


def with_reference_of(row: Row, other: Row | None) -> Row:
    """`row` with what the subject computes on `other`, the same row in its set."""
    if other is None:
        return row
    return replace(row, reference=other.reference, reference_costs=other.reference_costs)


def body_of(network: nn.Module, first_trained: int, training: Training) -> Body:
    """The decoder and head of a network whose blocks are trained from `first_trained` on."""
    return Body(network, first_trained, training.gradient_checkpointing, training.compile)


def job_of(
    objective: Objective,
    streams: Streams,
    body: Body,
    weights: dict[str, Tensor],
    *,
    label: str,
    folder: Path,
    fingerprint: str,
    fixed: Mapping[str, Tensor] | None = None,
) -> Job:
    """The job that trains `weights` with an objective.

    Args:
        objective: the configured method.
        streams: the rows of each step.
        body: the model's decoder and head.
        weights: the tensors to train, by name, with their first values.
        label: name of the job in progress lines.
        folder: folder for checkpoints and the log.
        fingerprint: identity of settings and inputs.
        fixed: what `Objective.prepare` returned; None: this function calls it.
    """
    job = Job(
        label=label,
        body=body,
        weights=weights,
        streams=streams,
        loss=lambda _: {},
        steps=objective.steps,
        optimizer=objective.training.optimizer,
        folder=folder,
        fingerprint=fingerprint,
        checkpoint_seconds=objective.training.checkpoint_seconds,
        reads=objective.reads(),
        finished=objective.finished,
        forgets=frozenset(name for name, draw in objective.draws().items() if draw.forgets),
        adversary=objective.adversary(),
    )
    tensors = _prepared(objective, job) if fixed is None else dict(fixed)
    state = objective.state()
    read = {**tensors, **state, "share": job.share}
    return replace(
        job,
        loss=lambda step: objective.loss(step, read),
        after_step=lambda step: objective.after_step(step, read),
        fixed=tensors,
        state=state,
    )


@torch.no_grad()
def _prepared(objective: Objective, job: Job) -> dict[str, Tensor]:
    def first() -> dict[str, Stream]:
        untrained = first_values(job.weights) if job.reads.untrained else {}
        return run(job, job.streams.draw(0), untrained)

    ids = {name: torch.cat([row.ids for row in rows]) for name, rows in job.streams.parts.items()}
    return objective.prepare(first, ids, job.streams.seed)
