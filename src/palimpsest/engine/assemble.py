"""Puts a training job together: an objective, the rows that it draws, the trained tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from palimpsest.engine.body import Body
from palimpsest.engine.gradients import Apart
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Pairs, Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, first_values, run
from palimpsest.errors import UserError
from palimpsest.settings.draw import Draw, Kind, Wanted
from palimpsest.settings.training import Training

if TYPE_CHECKING:
    from palimpsest.objectives.base import Objective


class Source(Protocol):
    """Where the rows of a training come from."""

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of the set `name`; with a `reference`, each has what the subject computes on it."""

    def examples(self, stream: str) -> list[Row]:
        """Rows of a stream that an earlier stage wrote (`Draw.examples`), without states."""

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Wanted answers to the rows of the set `name`: row id -> rows with the same prompt."""


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

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Fails: rows in memory have their own answers alone."""
        raise ValueError(f"set {name} has no answers of the kind {answers}")


def streams_of(draws: Mapping[str, Draw], source: Source, seed: int) -> Streams:
    """The rows of every stream.

    Args:
        draws: what each stream reads.
        source: where the rows come from.
        seed: seed of all draws.

    Raises:
        UserError: a set is missing or empty, or smaller than a step; no stream is left; a row has
            no wanted answer.
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
        if not draw.answers_of and not draw.wanted and not draw.turns
    }
    pairs = {}
    for name, draw in draws.items():
        if draw.wanted:
            beside = _beside(name, draws)
            rows = parts[beside] if beside in parts else read(draw.sets, None)
            pairs[name] = Pairs(beside, rows, _answers_of(rows, draw, source))
    parts |= {n: [a for of_row in p.answers.values() for a in of_row] for n, p in pairs.items()}
    pools = {n: read(d.answers_of, None) for n, d in draws.items() if d.answers_of}
    turns = {n: [read((s,), d.reference) for s in d.sets] for n, d in draws.items() if d.turns}
    parts |= {name: [row for rows in sets for row in rows] for name, sets in turns.items()}
    sizes = {name: draw.rows for name, draw in draws.items()}
    return Streams(sizes, parts, seed, pools, pairs, turns)


def _beside(name: str, draws: Mapping[str, Draw]) -> str:
    """The stream whose rows the wanted answers of the stream `name` belong to."""
    sets = draws[name].sets
    others = (
        other
        for other, draw in draws.items()
        if draw.sets == sets and not (draw.wanted or draw.answers_of or draw.signs)
    )
    beside = next(others, name)
    if draws[beside].rows != draws[name].rows:
        raise ValueError(f"the streams {beside} and {name} are pairs and draw unequal numbers")
    return beside


def _answers_of(rows: Sequence[Row], draw: Draw, source: Source) -> dict[str, list[Row]]:
    """Row id -> its wanted answers.

    Raises:
        UserError: a row has none, or one that is its own answer.
    """
    assert draw.wanted
    found: dict[str, list[Row]] = {}
    for name in draw.sets:
        found |= source.wanted(name, draw.wanted, draw.reference)
    kind, sets = draw.wanted, " and ".join(draw.sets)
    if lacking := [row.id for row in rows if not found.get(row.id)]:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise UserError(
            f"{len(lacking)} of {len(rows)} rows of the {sets} set have no {kind}: "
            f"{', '.join(lacking[:5])}{more}; every row needs one: raise tries or temperature in "
            f"wanted.{kind}s of the scenario, or name a file of your own there"
        )
    answers = {row.id: found[row.id] for row in rows}
    for row in rows:
        if any(torch.equal(row.response, answer.response) for answer in answers[row.id]):
            raise UserError(
                f"row {row.id} of the {sets} set has its own answer as its {kind}, so the two "
                "cannot be told apart; give it another one"
            )
    return answers


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
        apart=_apart(objective),
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


def _apart(objective: Objective) -> Apart | None:
    training = objective.training
    if not training.apart:
        return None
    return Apart(*objective.sides(), training.gradients, training.perturb)


@torch.no_grad()
def _prepared(objective: Objective, job: Job) -> dict[str, Tensor]:
    def first(step: int = 0) -> dict[str, Stream]:
        untrained = first_values(job.weights) if job.reads.untrained else {}
        return run(job, job.streams.draw(step), untrained)

    ids = {name: torch.cat([row.ids for row in rows]) for name, rows in job.streams.parts.items()}
    return objective.prepare(first, ids, job.streams.seed)
