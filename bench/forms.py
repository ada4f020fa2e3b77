"""The forms of a piece of work, and the training step of both kinds of forms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.engine.assemble import Sets, job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import first_values, train
from palimpsest.objectives.base import Objective
from palimpsest.settings.draw import Draw, Kind, Wanted
from palimpsest.settings.training import Optimizer

WARM_UP = -1
"""Number of the repeat that does not count; a form may do less work in it."""

RATE = 2e-4
"""Learning rate of every training piece."""

OPTIMIZER = Optimizer(learning_rate=RATE, schedule="constant")
"""Optimiser of our forms."""


@dataclass(frozen=True)
class Done:
    """The result of a form.

    Attributes:
        tokens: real tokens that it read or wrote, without padding.
        values: its results, to compare the forms.
    """

    tokens: int
    values: dict[str, float] = field(default_factory=dict)


def nothing() -> None:
    """Do nothing: most forms need no work before a repeat."""


@dataclass(frozen=True)
class Form:
    """One way to do a piece of work.

    Attributes:
        run: does the work; takes the number of the repeat and a size.
        before: work that is not timed (it removes files of the last repeat).
        facts: other facts to record.
    """

    run: Callable[[int, str], Done]
    before: Callable[[], None] = nothing
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch(Sets):
    """The rows of a training piece, drawn by the engine's sampler: both forms get the same.

    Attributes:
        draws: what each stream reads.
        labelled: rows of the streams that an earlier stage writes.
        answers: row id -> wanted answers.
    """

    draws: Mapping[str, Draw]
    labelled: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    answers: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def examples(self, stream: str) -> list[Row]:
        """Rows of a stream that an earlier stage writes."""
        return list(self.labelled[stream])

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Wanted answers to the rows of a set."""
        return {row.id: list(self.answers[row.id]) for row in self.sets[name]}

    def streams(self, repeat: int, factor: int = 1) -> Streams:
        """Streams of one repeat, with `factor` times the rows."""
        draws = {n: replace(draw, rows=factor * draw.rows) for n, draw in self.draws.items()}
        return streams_of(draws, self, repeat - WARM_UP)


def trained_by_us(
    objective: Objective,
    body: Callable[[], Body],
    weights: dict[str, Tensor],
    batch: Batch,
    folder: Path,
    fixed: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, float] | None = None,
) -> Form:
    """Steps of `palimpsest.engine.train.train`, as the stages run it.

    The size ``rows 2`` doubles the rows of the step, ``steps 2`` makes two steps. `body` runs
    before each repeat and is not timed, since a stage builds one body for all steps. The tensors
    that the objective fixes before training are not timed, either.
    """
    training = objective.training.model_copy(
        # With a checkpoint, the next repeat would continue this one.
        update={"optimizer": OPTIMIZER, "checkpoint_seconds": math.inf}
    )
    restore, bodies = restoring(weights), [body()]

    def before() -> None:
        restore()
        bodies[0] = body()

    def run(repeat: int, size: str) -> Done:
        kind, _, number = size.partition(" ")
        steps, factor = (int(number) if number and kind == k else 1 for k in ("steps", "rows"))
        job = job_of(
            objective.model_copy(update={"steps": steps, "training": training}),
            batch.streams(repeat, factor),
            bodies[0],
            weights,
            label="bench",
            folder=folder,
            fingerprint="",
            fixed=fixed or {},
        )
        lines = [json.loads(line) for line in train(job).read_text(encoding="utf-8").splitlines()]
        return Done(sum(line["tokens"] for line in lines), lines[0]["terms"])

    return Form(run, before, facts or {})


def trained_plainly(
    weights: Mapping[str, Tensor],
    batch: Batch,
    terms: Callable[[Mapping[str, Sequence[Row]]], dict[str, Tensor]],
) -> Form:
    """One step with the same optimiser and the same rows."""

    def run(repeat: int, _: str) -> Done:
        step_rows = batch.streams(repeat).draw(0)
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.0, foreach=False)
        values = terms(step_rows)
        torch.stack(list(values.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(len(row) for rows in step_rows.values() for row in rows)
        return Done(tokens, {name: term.item() for name, term in values.items()})

    return Form(run, restoring(weights))


def restoring(weights: Mapping[str, Tensor]) -> Callable[[], None]:
    """A function that resets the weights to their present values, so that repeats begin alike."""
    first = first_values(weights)

    def restore() -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(first[name])

    return restore
