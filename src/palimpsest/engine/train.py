"""The training loop, the same for every method."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from palimpsest.engine import gradients, inner, ranks
from palimpsest.engine.body import FINAL, Body, States
from palimpsest.engine.checkpoint import Checkpoint
from palimpsest.engine.gradients import Apart, Vector
from palimpsest.engine.optimizer import average, optimizer_of
from palimpsest.engine.progress import Progress, StepLog
from palimpsest.engine.rows import Row, shares
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.settings.adversary import Adversary
from palimpsest.settings.draw import Reads
from palimpsest.settings.training import Optimizer

Loss = Callable[[Mapping[str, Stream]], dict[str, Tensor]]
"""Computes the weighted terms of one step; their sum is minimised."""

DIVERGED = 1e4
"""Training has diverged when a term exceeds this many nats per token."""

GUESSING = 2.0
"""Training has diverged when a term that should fall exceeds this many times the cost of uniform
guessing, or of its own first step if that was higher (random labels cost much at first)."""

GROWN = 100.0
"""Training has diverged when a trained tensor exceeds this root mean square; that of a language
model is below 1."""


SELDOM = 10.0
"""A checkpoint is followed by at least this many times the time that it took."""


class Diverged(UserError):
    """A training whose terms or weights left every bound."""


@dataclass(frozen=True)
class Job:
    """One training: the model, the rows, the objective and the settings.

    Attributes:
        label: its name in progress lines, e.g. ``acquire smollm2-135m/sku seed 0``.
        body: the model.
        weights: the trained tensors by name (everything else is frozen).
        streams: rows of each step.
        loss: the method's objective.
        steps: optimiser steps.
        optimizer: AdamW and schedule settings.
        folder: side folder for checkpoints and the log.
        fingerprint: identifies settings and inputs; only checkpoints with the same are resumed.
        checkpoint_seconds: time between checkpoints; the result does not depend on it. Infinity:
            there is none, not even where a signal ends the training.
        reads: hidden states that the objective reads.
        finished: called after every step; returns why training ends here, or None to go on.
        fixed: tensors that `loss` reads and that training does not change.
        state: tensors that `loss` reads and that `after_step` changes; checkpoints keep them.
        after_step: called after every step; returns the tensors of `state` that it changes.
        share: scalar that `loss` reads: the steps done as a share of all.
        apart: how the forget and the retain term run by themselves; None: all terms share a pass.
        forgets: streams whose rows are to be unlearned: their cost may rise without end.
        adversary: attacks the inner states of the stream ``forget`` in every step.
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
    fixed: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    after_step: Callable[[Mapping[str, Stream]], Mapping[str, Tensor]] | None = None
    share: Tensor = field(default_factory=lambda: torch.zeros(()))
    apart: Apart | None = None
    forgets: frozenset[str] = frozenset()
    adversary: Adversary | None = None


def train(job: Job) -> Path:
    """Train `job.weights` in place and return the path of the step log.

    A killed run continues after its last checkpoint and ends with the same weights as an
    uninterrupted one (on the CPU, at the same number of threads). SIGTERM and Ctrl-C save a
    checkpoint first. A second Ctrl-C ends the run at once; a second SIGTERM does not, because
    schedulers repeat it.

    If several processes train, each runs its share of every step's rows. The first one writes log
    and checkpoints, and only there does this function return.

    Raises:
        Diverged: a term is not finite or has diverged (the last good checkpoint is kept).
        UserError: the warm-up is as long as the training; the disk is full; terms cannot be taken
            apart.
    """
    if job.optimizer.warmup_steps >= job.steps:
        raise UserError(
            f"training.optimizer.warmup_steps: {job.optimizer.warmup_steps}, but {job.label} has "
            f"{job.steps} steps in all; nothing is left for the decay"
        )
    for name, rows in job.streams.parts.items():
        if name not in job.reads.unread:
            job.body.keep(rows)
    if job.adversary:
        inner.check(job.body, job.adversary)
    untrained = first_values(job.weights) if job.reads.untrained else {}
    _refuse_dropout(job)
    optimizer = optimizer_of(job.weights, job.optimizer)
    averaged = job.apart is not None and job.apart.gradients.combine == "gru"
    mean = {f"mean.{n}": torch.zeros_like(w) for n, w in job.weights.items() if averaged}
    first_costs = {name: torch.tensor(-1.0, dtype=torch.float64) for name in job.streams.sizes}
    state = job.state | mean | {f"first.{name}": cost for name, cost in first_costs.items()}
    checkpoint = Checkpoint(job.folder, job.fingerprint, job.folder / TRAINING_LOG)
    with ranks.main_first():  # it deletes a checkpoint with another fingerprint
        done = checkpoint.load(job.weights, optimizer, state)
    steps = _steps(job, optimizer, done, untrained, list(mean.values()), first_costs)
    if ranks.current().rank:
        for _ in steps:
            pass
        ranks.leave()
    log = StepLog(job.folder / TRAINING_LOG, done)
    progress = Progress(job.label, job.steps, done=done)
    progress.note(job.streams.budget(job.steps))
    saved_at, pause = time.monotonic(), job.checkpoint_seconds
    keeps = math.isfinite(pause)
    with _stop_requested() as stop, contextlib.closing(log):
        began = time.monotonic()
        for result in steps:
            log.seconds += time.monotonic() - began
            loss, ended = sum(result.terms.values()), result.ended
            line = {"step": result.step, "steps": job.steps, "loss": loss, "terms": result.terms}
            facts = {"lr": result.rate, "grad_norm": result.norm, "tokens": result.tokens}
            facts |= {"seconds": log.seconds, **_peak(job.body.device)}
            log.write({**line, **facts, **result.facts, **({"ended": ended} if ended else {})})
            progress.update(result.step, result.tokens, loss=loss, **result.terms)
            if ended:
                progress.note(f"ended after step {result.step}: {ended}")
            elif keeps and (stop or time.monotonic() - saved_at >= pause):
                saving = time.monotonic()
                checkpoint.save(result.step, job.weights, optimizer, state)
                saved_at = time.monotonic()
                pause = pause_after(saved_at - saving, job.checkpoint_seconds)
            if stop and not ended:
                raise stop.exception()
            began = time.monotonic()
    average(optimizer)
    ranks.leave()
    return job.folder / TRAINING_LOG


def _peak(device: torch.device) -> dict[str, float]:
    """Most GPU memory since the program began, in MB; nothing on the CPU."""
    if device.type != "cuda":
        return {}
    return {"peak_gpu_mb": torch.cuda.max_memory_allocated(device) / 2**20}


def schedule(settings: Optimizer, step: int, steps: int) -> float:
    """Factor on the rate at `step` (counted from 0): warm-up, then decay to 0 at `steps`."""
    if settings.name == "schedule_free":
        return 1.0  # the optimiser itself warms up, and averages instead of decaying
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
    if settings.schedule == "constant":
        return 1.0
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def pause_after(save: float, seconds: float) -> float:
    """Seconds until the next checkpoint after one that took `save`; 0 stays 0 (after every step).

    Saving may not take more than a tenth of the time.
    """
    return max(seconds, SELDOM * save) if seconds else 0.0


@dataclass(frozen=True)
class StepResult:
    """What the log records of one step.

    Attributes:
        step: number of the step, counted from 1.
        rate: learning rate.
        terms: the objective's terms.
        norm: norm of the gradient before clipping.
        tokens: tokens that the step read.
        ended: why training ends after this step, or None.
        facts: what only some methods log: ``state``, the scalars of the method's state in the step;
            ``cosines``, if gradients are taken apart: ``terms``, of both, and ``step``, of the
            true step downhill with the retain gradient (gru: the mean of them).
    """

    step: int
    rate: float
    terms: dict[str, float]
    norm: float
    tokens: int
    ended: str | None
    facts: dict[str, dict[str, float]]


def _steps(
    job: Job,
    optimizer: torch.optim.Optimizer,
    done: int,
    untrained: Mapping[str, Tensor],
    mean: Vector,
    first_costs: Mapping[str, Tensor],
) -> Iterator[StepResult]:
    for step in range(done, job.steps):
        rate = job.optimizer.learning_rate * schedule(job.optimizer, step, job.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        job.share.fill_(step / job.steps)
        scalars = {name: value.item() for name, value in job.state.items() if not value.dim()}
        streams = job.streams.draw(step)
        for added in inner.rounds(job.body, streams.get("forget", ()), job.adversary):
            passes = _Passes(job, streams, step, untrained, first_costs)
            with job.body.adding(job.adversary.block if job.adversary else 0, added):
                norm, cosines, ended = _step(job, optimizer, passes, mean)
        read = [rows for name, rows in streams.items() if name not in job.reads.unread]
        tokens = sum(len(row) for rows in read for row in rows)
        facts = {"state": scalars, "cosines": cosines}
        logged = {name: values for name, values in facts.items() if values}
        yield StepResult(step + 1, rate, passes.values, norm, tokens, ended, logged)
        if ended:
            return


def run(
    job: Job,
    drawn: Mapping[str, Sequence[Row]],
    untrained: Mapping[str, Tensor],
) -> dict[str, Stream]:
    """Run the rows of a step through the model, in one forward pass that all terms share.

    If several processes train, this one runs its share of the rows.

    Args:
        job: body, streams and what the objective reads.
        drawn: rows of each stream.
        untrained: the trained tensors before training, for streams that are compared with them.
    """
    drawn = {name: rows for name, rows in drawn.items() if name not in job.reads.unread}
    every_row = [row for rows in drawn.values() for row in rows]
    share = _share(every_row)
    trained = Pass(job.body, every_row, share, job.reads)
    streams = {
        name: Stream(
            rows,
            [states.final for states in trained.of(rows)] if job.reads.final else [],
            job.body.head,
            _levels(trained.of(rows)),
        )
        for name, rows in drawn.items()
    }
    compared = {name: drawn[name] for name in job.reads.untrained if name in drawn}
    if compared:
        blocks_alone = replace(job.reads, final=False)
        rows = [row for of_stream in compared.values() for row in of_stream]
        with torch.no_grad(), swapped(job.weights, untrained):
            before = Pass(job.body, rows, share, blocks_alone, same_rows=True)
        for name, of_stream in compared.items():
            streams[name].untrained = _levels(before.of(of_stream))
    return streams


def _share(rows: Sequence[Row]) -> set[Row]:
    """The rows of a step that this process runs."""
    group, distinct = ranks.current(), list(dict.fromkeys(rows))
    if group.count == 1:
        return set(distinct)
    return {distinct[i] for i in shares([len(row) for row in distinct], group.count)[group.rank]}


class Pass:
    """One forward pass over this process's rows."""

    def __init__(
        self,
        body: Body,
        rows: Sequence[Row],
        share: set[Row],
        reads: Reads,
        same_rows: bool = False,
    ) -> None:
        """Run those of `rows` that are in `share`; see `Body.states`."""
        local_rows = [row for row in rows if row in share]
        # A process without rows runs the shortest one, because the others wait for its part of the
        # weights; the result is not used.
        states = body.states(local_rows or [min(rows, key=len)], reads, same_rows)
        self._states = dict(zip(local_rows, states[: len(local_rows)], strict=True))
        blocks = {block: output[:0] for block, output in states[0].blocks.items()}
        self._empty = States(states[0].final[:0], blocks)

    def of(self, rows: Sequence[Row]) -> list[States]:
        """States of each row; empty ones for rows of other processes."""
        return [self._states.get(row, self._empty) for row in rows]


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
    """Within the block, the trained tensors hold other values; nothing is copied."""
    before = {name: weight.data for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data = values[name]
        yield
    finally:
        for name, weight in weights.items():
            weight.data = before[name]


@dataclass
class _Passes:
    """The forward and backward passes of one step.

    Attributes:
        job: the training.
        drawn: rows of each stream.
        step: number of the step, from 0.
        untrained: the trained tensors before training, for streams that are compared with them.
        first_costs: what each stream cost in its first step, nats per token; -1 before.
        streams: the rows after the forward pass.
        values: the terms.
    """

    job: Job
    drawn: Mapping[str, Sequence[Row]]
    step: int
    untrained: Mapping[str, Tensor]
    first_costs: Mapping[str, Tensor]
    streams: dict[str, Stream] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    def backward(self, names: Collection[str], share: float = 1.0, logged: bool = True) -> None:
        """Add the gradient of what some streams' terms cost, times `share`, to what is there."""
        job, step = self.job, self.step
        drawn = {name: rows for name, rows in self.drawn.items() if name in names}
        streams = run(job, drawn, self.untrained)
        terms = job.loss(streams)
        stacked = torch.stack(list(terms.values()))
        values = dict(zip(terms, stacked.tolist(), strict=True))
        # Objectives on inner states sum squares without a common unit, so these need only be
        # finite.
        _check(values, step, limit=DIVERGED if job.reads.final else math.inf)
        learned = {name: stream for name, stream in streams.items() if name not in job.forgets}
        _check_learning(learned, values, step, math.log(job.body.vocabulary), self.first_costs)
        (stacked.sum() * share).backward()
        if logged:
            self.streams |= streams
            for name, value in values.items():
                self.values[name] = self.values.get(name, 0.0) + share * value

    def taken(self) -> Vector:
        """The gradients of all processes, which are removed from the trained tensors."""
        weights = list(self.job.weights.values())
        ranks.sum_gradients(weights)
        found = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        for weight in weights:
            weight.grad = None
        return found

    def gradient(self, names: Collection[str], logged: bool = True) -> Vector:
        """Gradient of some streams' terms."""
        self.backward(names, logged=logged)
        return self.taken()


def _apart(passes: _Passes, apart: Apart, mean: Vector) -> tuple[Vector, float]:
    """Leave the combined gradient of both sides in the trained tensors.

    Returns:
        What the step may be compared with, the retain gradient or (gru) the mean of them; and the
        cosine of both gradients.

    Raises:
        UserError: a side has more than one term.
    """
    job = passes.job
    forget, retain = _forget_gradient(passes, apart), passes.gradient(apart.retain)
    if len(passes.values) != 2:
        raise UserError(
            "training.gradients and training.perturb need exactly one forget and one retain term, "
            f"but {job.label} has {', '.join(passes.values)}; leave them out, or set further "
            "weights to 0"
        )
    with torch.no_grad():
        for of_mean, newest in zip(mean, retain, strict=False):
            of_mean.lerp_(newest, apart.gradients.momentum)
        together = gradients.combined(forget, retain, mean, apart.gradients)
        cosine = gradients.cosine(forget, retain)
    for weight, gradient in zip(job.weights.values(), together, strict=True):
        weight.grad = gradient
    return mean or retain, cosine


def _forget_gradient(passes: _Passes, apart: Apart) -> Vector:
    """Gradient of the forget term, at the weights or beside them."""
    job, names, perturb = passes.job, apart.forget, apart.perturb
    if perturb is None:
        return passes.gradient(names)
    if perturb.kind == "sharpness":
        at_weights = passes.gradient(names)
        with torch.no_grad():
            there = gradients.sharper(job.weights, at_weights, perturb)
        with swapped(job.weights, there):
            return passes.gradient(names, logged=False)
    for sample in range(perturb.samples):
        with torch.no_grad():
            there = gradients.noisy(job.weights, perturb, job.streams.seed, passes.step, sample)
        with swapped(job.weights, there):
            passes.backward(names, 1 / perturb.samples)
    return passes.taken()


def _refuse_dropout(job: Job) -> None:
    # Two passes would drop different numbers, and their difference would be taken for sharpness.
    modules = job.body.decoder.module.modules()
    perturbed = job.apart and job.apart.perturb
    if perturbed and any(isinstance(m, nn.Dropout) and m.p and m.training for m in modules):
        raise UserError(
            f"training.perturb: {job.label} trains with dropout, which changes the forget term "
            "from pass to pass; set the dropout to 0"
        )


def _step(
    job: Job, optimizer: torch.optim.Optimizer, passes: _Passes, mean: Vector
) -> tuple[float, dict[str, float], str | None]:
    """Make a step.

    Returns:
        Norm of the gradient before clipping; cosines, if gradients are taken apart; why training
        ends.
    """
    weights, step, kept = list(job.weights.values()), passes.step, mean
    cosines: dict[str, float] = {}
    if job.apart:
        kept, cosines["terms"] = _apart(passes, job.apart, mean)
    else:
        passes.backward(passes.drawn)
        ranks.sum_gradients(weights)
    norm = torch.nn.utils.clip_grad_norm_(weights, job.optimizer.clip_norm or math.inf).item()
    _check({"gradient norm": norm}, step, limit=math.inf)
    before = list(first_values(job.weights).values()) if job.apart else []
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    largest = _largest(weights).item()
    _check({"root mean square of a trained tensor": largest}, step, limit=GROWN)
    with torch.no_grad():
        if job.apart:
            cosines["step"] = gradients.cosine(gradients.plus(before, weights, -1), kept)
        if job.after_step:
            for name, value in job.after_step(passes.streams).items():
                job.state[name].copy_(value)
    return norm, cosines, job.finished(passes.streams) if job.finished else None


@torch.no_grad()
def _largest(weights: Collection[Tensor]) -> Tensor:
    """The largest root mean square of a tensor; on a GPU in a few launches for all."""
    norms = torch.stack(torch._foreach_norm(list(weights)))
    counts = torch.tensor([weight.numel() for weight in weights], dtype=norms.dtype)
    return (norms / counts.sqrt().to(norms.device)).max()


def _check(values: Mapping[str, float], step: int, limit: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or abs(value) > limit:
            raise _diverged(step, f"the term '{name}' is {value:.4g}")


def _check_learning(
    streams: Mapping[str, Stream],
    values: Mapping[str, float],
    step: int,
    guess: float,
    first_costs: Mapping[str, Tensor],
) -> None:
    for name, stream in streams.items():
        # A negative term unlearns its rows, so their cost may take any value.
        if stream.cost is None or values.get(name, 0.0) < 0:
            continue
        cost = stream.cost.item()
        if first_costs[name] < 0:
            first_costs[name].fill_(cost)
        first = first_costs[name].item()
        if cost > GUESSING * max(guess, first):
            raise _diverged(
                step,
                f"the term '{name}' is at {cost:.4g} nats per token (blind guessing: {guess:.4g}; "
                f"first: {first:.4g})",
            )


def _diverged(step: int, what: str) -> Diverged:
    return Diverged(
        f"step {step + 1}: {what}; training has diverged. "
        "Lower training.optimizer.learning_rate (or the weight of this term), or raise "
        "warmup_steps; the last good checkpoint is kept"
    )


class _stop_requested:  # noqa: N801 - used as a context manager
    """True after SIGTERM or SIGINT; the step in progress is finished first."""

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
        """The exception that ends the program as the signal would have."""
        if self.number == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
