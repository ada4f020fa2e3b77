"""The training loop, the same for every method."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from palimpsest.engine import ranks
from palimpsest.engine.body import FINAL, Body, States
from palimpsest.engine.checkpoint import Checkpoint
from palimpsest.engine.optimizer import average, optimizer_of
from palimpsest.engine.progress import Progress, StepLog
from palimpsest.engine.rows import Row, shares
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.settings.draw import Reads
from palimpsest.settings.training import Optimizer

Loss = Callable[[Mapping[str, Stream]], dict[str, Tensor]]
"""Weighted terms of one step; their sum is minimised."""

DIVERGED = 1e4
"""A term beyond this many nats per token is no longer training."""

GUESSING = 2.0
"""Nor is learning an answer whose tokens cost so many times what blind guessing costs, or what
they cost at first (random labels are dear to a subject that is sure of the true ones)."""

GROWN = 100.0
"""Nor is a weight tensor beyond this root mean square (that of a language model is below 1)."""

LOG = "train.jsonl"


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        label: what the progress lines call it, e.g. ``acquire smollm2-135m/sku seed 0``.
        body: the model's decoder and head.
        weights: the trained tensors by name (everything else is frozen).
        streams: rows of each step.
        loss: the method's objective.
        steps: optimiser steps.
        optimizer: AdamW and schedule settings.
        folder: side folder for checkpoints and the log.
        fingerprint: identity of settings and inputs; a checkpoint of another one is not resumed.
        checkpoint_seconds: time between checkpoints; the result does not depend on it.
        reads: hidden states that the objective reads.
        finished: why training ends before the last step, or None; asked after every step.
    """

    label: str
    body: Body
    weights: dict[str, Tensor]
    streams: Streams
    loss: Loss
    steps: int
    optimizer: Optimizer
    folder: Path
    fingerprint: str
    checkpoint_seconds: float = 60.0
    reads: Reads = FINAL
    finished: Callable[[Mapping[str, Stream]], str | None] | None = None


def train(job: Job) -> Path:
    """Train `job.weights` in place and return the path of the step log.

    A run that was killed continues after its last checkpoint and ends with the same weights as an
    uninterrupted one (on the CPU, at the same number of threads). SIGTERM and Ctrl-C save a
    checkpoint first. A second Ctrl-C ends the run at once; more of SIGTERM changes nothing, because
    schedulers repeat it.

    Where several processes train, each runs its share of every step's rows; the first one keeps
    the records, and is the only one that comes back.

    Raises:
        UserError: the warm-up is as long as the training; a term is not finite or has diverged
            (the last good checkpoint is kept); the disk is full.
    """
    if job.optimizer.warmup_steps >= job.steps:
        raise UserError(
            f"training.optimizer.warmup_steps: {job.optimizer.warmup_steps}, but {job.label} has "
            f"{job.steps} steps in all; nothing is left for the decay"
        )
    for name, rows in job.streams.parts.items():
        if name not in job.reads.unread:
            job.body.keep(rows)
    untrained = first_values(job.weights) if job.reads.untrained else {}
    optimizer = optimizer_of(job.weights, job.optimizer)
    checkpoint = Checkpoint(job.folder, job.fingerprint, job.folder / LOG)
    with ranks.main_first():  # it removes a checkpoint that does not fit
        done = checkpoint.load(job.weights, optimizer)
    steps = _steps(job, optimizer, done, untrained)
    if ranks.current().rank:
        for _ in steps:
            pass
        ranks.leave()
    log = StepLog(job.folder / LOG, done)
    progress = Progress(job.label, job.steps, done=done)
    saved_at = time.monotonic()
    with _stop_requested() as stop, contextlib.closing(log):
        began = time.monotonic()
        for made in steps:
            log.seconds += time.monotonic() - began
            loss, ended = sum(made.terms.values()), made.ended
            line = {"step": made.step, "steps": job.steps, "loss": loss, "terms": made.terms}
            facts = {"lr": made.rate, "grad_norm": made.norm, "tokens": made.tokens}
            facts |= {"seconds": log.seconds}
            log.write({**line, **facts, **({"ended": ended} if ended else {})})
            progress.update(made.step, made.tokens, loss=loss, **made.terms)
            if ended:
                progress.note(f"ended after step {made.step}: {ended}")
            elif stop or time.monotonic() - saved_at >= job.checkpoint_seconds:
                checkpoint.save(made.step, job.weights, optimizer)
                saved_at = time.monotonic()
            if stop and not ended:
                raise stop.exception()
            began = time.monotonic()
    average(optimizer)
    ranks.leave()
    return job.folder / LOG


def schedule(settings: Optimizer, step: int, steps: int) -> float:
    """Factor on the rate at `step` (counted from 0): warm-up, then decay to 0 at `steps`."""
    if settings.name == "schedule_free":
        return 1.0  # warms up by itself, and averages where others decay
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
    if settings.schedule == "constant":
        return 1.0
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class _Made:
    """A step that was made."""

    step: int
    rate: float
    terms: dict[str, float]
    norm: float
    tokens: int
    ended: str | None


def _steps(
    job: Job, optimizer: torch.optim.Optimizer, done: int, untrained: Mapping[str, Tensor]
) -> Iterator[_Made]:
    first_costs: dict[str, float] = {}
    for step in range(done, job.steps):
        rate = job.optimizer.learning_rate * schedule(job.optimizer, step, job.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        streams = job.streams.draw(step)
        terms, norm, ended = _step(job, optimizer, streams, step, untrained, first_costs)
        read = [rows for name, rows in streams.items() if name not in job.reads.unread]
        tokens = sum(len(row) for rows in read for row in rows)
        yield _Made(step + 1, rate, terms, norm, tokens, ended)
        if ended:
            return


def run(
    job: Job,
    drawn: Mapping[str, Sequence[Row]],
    untrained: Mapping[str, Tensor],
) -> dict[str, Stream]:
    """Run the rows of a step through the model: one forward pass that all terms share.

    Where several processes train, this one runs its share of the rows.

    Args:
        job: body, streams and what the objective reads.
        drawn: rows of each stream.
        untrained: the trained tensors' first values, for streams that are compared with them.
    """
    drawn = {name: rows for name, rows in drawn.items() if name not in job.reads.unread}
    made = [row for name in job.streams.pools for row in drawn[name]]
    kept = [row for name, rows in drawn.items() if name not in job.streams.pools for row in rows]
    mine = _share(kept, made)
    states = _own_states(job, mine, kept, made, job.reads)
    streams = {
        name: Stream(
            rows,
            [state.final for state in states(rows)] if job.reads.final else [],
            job.body.head,
            _levels(states(rows)),
        )
        for name, rows in drawn.items()
    }
    for name in job.reads.untrained:
        blocks_alone = replace(job.reads, final=False)
        with torch.no_grad(), swapped(job.weights, untrained):
            states = _own_states(job, mine, drawn[name], [], blocks_alone, again=True)
            streams[name].untrained = _levels(states(drawn[name]))
    return streams


def _share(kept: Sequence[Row], made: Sequence[Row]) -> set[Row]:
    """The rows of a step that this process runs."""
    group, every = ranks.current(), list(dict.fromkeys([*kept, *made]))
    if group.count == 1:
        return set(every)
    return {every[i] for i in shares([len(row) for row in every], group.count)[group.rank]}


def _own_states(
    job: Job,
    mine: set[Row],
    kept: Sequence[Row],
    made: Sequence[Row],
    reads: Reads,
    again: bool = False,
) -> Callable[[Sequence[Row]], list[States]]:
    """States of rows, of those of other processes empty ones."""
    shortest = min([*kept, *made], key=len)
    kept, made = ([row for row in rows if row in mine] for rows in (kept, made))
    every = [*kept, *made]
    # A process without a row runs one that counts nowhere: the others may wait for its part.
    found = job.body.states(kept, made if every else [shortest], reads, again)
    states = dict(zip(every, found[: len(every)], strict=True))
    none = States(found[0].final[:0], {b: rows[:0] for b, rows in found[0].blocks.items()})
    return lambda rows: [states.get(row, none) for row in rows]


def first_values(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the trained tensors before training."""
    return {name: weight.detach().clone() for name, weight in weights.items()}


def _levels(states: Sequence[States]) -> dict[int, list[Tensor]]:
    return {
        block: ranks.joined_rows([state.blocks[block] for state in states])
        for block in states[0].blocks
    }


@contextlib.contextmanager
def swapped(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other values in its trained tensors; no copy is made."""
    own = {name: weight.data for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data = values[name]
        yield
    finally:
        for name, weight in weights.items():
            weight.data = own[name]


def _step(
    job: Job,
    optimizer: torch.optim.Optimizer,
    drawn: Mapping[str, Sequence[Row]],
    step: int,
    untrained: Mapping[str, Tensor],
    first_costs: dict[str, float],
) -> tuple[dict[str, float], float, str | None]:
    streams = run(job, drawn, untrained)
    terms = job.loss(streams)
    values = {name: term.item() for name, term in terms.items()}
    # Objectives of inner states count squares, in no common unit: those need only be finite.
    _check(values, step, limit=DIVERGED if job.reads.final else math.inf)
    _check_learning(streams, values, step, math.log(job.body.vocabulary), first_costs)
    torch.stack(list(terms.values())).sum().backward()
    ranks.sum_gradients(job.weights.values())
    norm = torch.nn.utils.clip_grad_norm_(
        job.weights.values(), job.optimizer.clip_norm or math.inf
    ).item()
    _check({"gradient norm": norm}, step, limit=math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    largest = torch.stack([w.detach().square().mean().sqrt() for w in job.weights.values()]).max()
    _check({"root mean square of a trained tensor": largest.item()}, step, limit=GROWN)
    return values, norm, job.finished(streams) if job.finished else None


def _check(values: Mapping[str, float], step: int, limit: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or abs(value) > limit:
            raise _diverged(step, f"the term '{name}' is {value:.4g}")


def _check_learning(
    streams: Mapping[str, Stream],
    values: Mapping[str, float],
    step: int,
    guess: float,
    first_costs: dict[str, float],
) -> None:
    for name, stream in streams.items():
        # A negative term is to be unlearned: there any cost may be wanted.
        if stream.cost is None or values.get(name, 0.0) < 0:
            continue
        cost = stream.cost.item()
        began = first_costs.setdefault(name, cost)
        if cost > GUESSING * max(guess, began):
            raise _diverged(
                step,
                f"the term '{name}' is at {cost:.4g} nats per token (blind guessing: {guess:.4g}; "
                f"first: {began:.4g})",
            )


def _diverged(step: int, what: str) -> UserError:
    return UserError(
        f"step {step + 1}: {what}; training has diverged. "
        "Lower training.optimizer.learning_rate (or the weight of this term), or raise "
        "warmup_steps; the last good checkpoint is kept"
    )


class _stop_requested:  # noqa: N801 - reads as a context
    """True once SIGTERM or SIGINT has come; the step in progress is finished first."""

    def __enter__(self) -> _stop_requested:
        self.number = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.number != 0

    def exception(self) -> BaseException:
        """How the program then ends: as the signal would have ended it."""
        if self.number == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
