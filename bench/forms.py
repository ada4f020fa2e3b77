"""What a form of a piece of work is, and the training step that both kinds of forms make."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.engine.body import FINAL, Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import Job, Loss, first_values, train
from palimpsest.settings.draw import Reads
from palimpsest.settings.training import Optimizer

WARM_UP = -1
"""Number of the repeat that does not count; a form may take less work for it."""

RATE = 2e-4
"""Learning rate of every training piece."""


@dataclass(frozen=True)
class Done:
    """What a form did.

    Attributes:
        tokens: real tokens that were read or written, without padding.
        values: what came out, to be compared between forms.
    """

    tokens: int
    values: dict[str, float] = field(default_factory=dict)


def nothing() -> None:
    """Before most repeats there is nothing to do."""


@dataclass(frozen=True)
class Form:
    """One way to do a piece of work.

    Attributes:
        run: does it; told the number of the repeat and the size.
        before: what is not timed (removing files of the last repeat).
        facts: what else is worth knowing.
    """

    run: Callable[[int, str], Done]
    before: Callable[[], None] = nothing
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The rows of a training piece, drawn by the engine's sampler: both forms get the same."""

    sizes: Mapping[str, int]
    parts: Mapping[str, Sequence[Row]]
    pools: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def streams(self, repeat: int, factor: int = 1) -> Streams:
        """Streams of one repeat, with `factor` times the rows."""
        sizes = {name: factor * size for name, size in self.sizes.items()}
        return Streams(sizes, self.parts, repeat - WARM_UP, self.pools)


def trained_by_us(
    body: Callable[[], Body],
    weights: dict[str, Tensor],
    batch: Batch,
    loss: Loss,
    folder: Path,
    reads: Reads = FINAL,
    facts: Mapping[str, float] | None = None,
) -> Form:
    """Steps of `palimpsest.engine.train.train`, as the stages run it.

    The size ``rows 2`` doubles the rows of the step, ``steps 2`` makes two steps. `body` is asked
    before each repeat, and not timed: a stage makes one for all of its steps.
    """
    restore, bodies = restoring(weights), [body()]

    def before() -> None:
        restore()
        bodies[0] = body()

    def run(repeat: int, size: str) -> Done:
        kind, _, number = size.partition(" ")
        steps, factor = (int(number) if number and kind == k else 1 for k in ("steps", "rows"))
        job = Job(
            label="bench",
            body=bodies[0],
            weights=weights,
            streams=batch.streams(repeat, factor),
            loss=loss,
            steps=steps,
            optimizer=Optimizer(learning_rate=RATE, schedule="constant"),
            folder=folder,
            fingerprint="",
            reads=reads,
            checkpoint_seconds=math.inf,  # the next repeat would go on where this one ended
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
        drawn = batch.streams(repeat).draw(0)
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.0, foreach=False)
        found = terms(drawn)
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(len(row) for rows in drawn.values() for row in rows)
        return Done(tokens, {name: term.item() for name, term in found.items()})

    return Form(run, restoring(weights))


def restoring(weights: Mapping[str, Tensor]) -> Callable[[], None]:
    """A function that gives the weights their present values again: every repeat begins alike."""
    first = first_values(weights)

    def restore() -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(first[name])

    return restore
