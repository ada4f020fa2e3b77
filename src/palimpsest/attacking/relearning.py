"""Trains on top of the attacked model, which stays as it is, and measures at some steps."""

from __future__ import annotations

import contextlib
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from palimpsest.attacking.target import Target
from palimpsest.attacks import UNSEEN, Cell, Found, Outcome
from palimpsest.attacks.relearn import Settings
from palimpsest.data.attack_split import Fact, refuse_overlaps
from palimpsest.engine.assemble import body_of, job_of
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Diverged, train
from palimpsest.errors import UserError
from palimpsest.io.canonical import fingerprint
from palimpsest.measuring.alternatives import DataRow
from palimpsest.model.delta import add_deltas, base_tensors
from palimpsest.model.description import deltas_in, updates_in
from palimpsest.model.lora import add_trainable, every_linear
from palimpsest.model.names import first_block
from palimpsest.model.quantized import is_quantized
from palimpsest.objectives.teaching import Teaching
from palimpsest.settings.method import Rows
from palimpsest.settings.training import Lora, Optimizer, Training

ADAPTER = "attacker"
"""Name of the attacker's LoRA, and of what he trains among what cells share."""

EVERY = ".*"
"""Every tensor of the base."""

BENIGN = 0.4
"""Share of the steps that retain_then_forget spends on retain rows (arXiv:2408.00761)."""

LAST = 6
"""Steps whose mean loss stands for the loss at a step."""

RISEN = 1.0
"""Nats per token above the first step at which a training counts as diverged."""


def relearn(settings: Settings, rate: float, cell: Cell, target: Target) -> Found:
    """Train with one rate, on one fold, with one seed.

    Raises:
        UserError: the attacker has no rows, one gives a measured row away, or the training changed
            no weight.
    """
    attacker = target.once(ADAPTER, lambda: Attacker.of(target, settings))
    attacker.reset(cell.seed)
    streams = _streams(settings, cell, target, attacker)
    optimizer = Optimizer(
        learning_rate=rate, schedule="constant", warmup_steps=settings.warmup_steps
    )
    teaching = Teaching(
        steps=settings.measure_at[-1],
        rows=Rows(retain=streams.sizes["rows"]),
        training=Training(optimizer=optimizer),
    )
    with tempfile.TemporaryDirectory() as folder:  # has the step log alone
        job = job_of(
            teaching,
            streams,
            attacker.body,
            attacker.weights,
            label=f"{target.job.label} {target.cell}".rstrip(),
            folder=Path(folder),
            fingerprint="",
        )
        measuring = Measuring(settings, rate, cell, target, attacker, streams)
        try:
            # A checkpoint would be the returned knowledge: a killed job repeats its cell instead.
            train(replace(job, finished=measuring, checkpoint_seconds=math.inf))
        except Diverged as error:
            print(f"{job.label}: {error}", flush=True)
    return measuring.found()


@dataclass
class Attacker(ABC):
    """The attacked model with what an attacker trains on top; one for all cells of a job.

    Attributes:
        network: the `transformers` model, with that on it.
        weights: the tensors that are trained.
        body: runs training rows; it keeps what the frozen blocks make of them.
        first_layer: first block with one of them.
    """

    network: nn.Module
    weights: dict[str, Tensor]
    body: Body
    first_layer: int
    _rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Target, settings: Settings) -> Attacker:
        """Load the attacked model and put on it what is trained.

        Raises:
            UserError: all weights are to be trained, and those of the base are quantised.
        """
        kind = OfWeights if settings.trained == "weights" else OfLora
        network, weights, first = kind.added(target, settings)
        training = Training(optimizer=Optimizer(learning_rate=1.0))
        return kind(network, weights, body_of(network, first, training), first)

    @classmethod
    @abstractmethod
    def added(cls, target: Target, settings: Settings) -> tuple[nn.Module, dict[str, Tensor], int]:
        """The network with what is trained on it, that, and its first block."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Give what is trained the first values that follow from `seed`: the attacked model's."""

    @abstractmethod
    def weights_changed(self) -> float:
        """Share of the numbers of the trained matrices that the training changed, in their type."""

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Within the block nothing is trained, so that what follows from it may be kept."""
        yield

    def rows(self, target: Target, sources: Sequence[DataRow]) -> list[Row]:
        """Token rows; the same objects in every cell, so that what was computed on them is kept."""
        new = [row for row in sources if (row.ref, row.id) not in self._rows]
        for source, row in zip(new, target.rows(new), strict=True):
            self._rows[source.ref, source.id] = row
        return [self._rows[row.ref, row.id] for row in sources]


class OfLora(Attacker):
    """With a LoRA of the attacker's own."""

    @classmethod
    def added(cls, target: Target, settings: Settings) -> tuple[nn.Module, dict[str, Tensor], int]:
        """The LoRA is on every linear module from a block on."""
        first = settings.first_layer
        first = _first_taught(target.original) if first is None else first
        lora = Lora(
            rank=settings.rank,
            alpha=settings.alpha,
            targets=every_linear(target.network),
            first_layer=first,
        )
        model, weights = add_trainable(target.network, lora, ADAPTER, seed=0)
        return model.get_base_model(), weights, first

    def reset(self, seed: int) -> None:
        """A is random, B is zero."""
        torch.manual_seed(seed)
        for module in self._adapted():
            module.reset_lora_parameters(ADAPTER, True)

    @torch.no_grad()
    def weights_changed(self) -> float:
        """Of quantised matrices, the share where the LoRA's update is not 0."""
        changed = total = 0
        for module in self._adapted():
            weight, update = module.get_base_layer().weight, module.get_delta_weight(ADAPTER)
            if weight.is_floating_point():
                changed += int(((weight + update).to(weight.dtype) != weight).sum())
            else:
                changed += int((update != 0).sum())
            total += update.numel()
        return changed / total

    def _adapted(self) -> list[Any]:
        return [m for m in self.network.modules() if ADAPTER in getattr(m, "lora_A", {})]


class OfWeights(Attacker):
    """With a difference in fp32 of every weight of the base."""

    @classmethod
    def added(cls, target: Target, settings: Settings) -> tuple[nn.Module, dict[str, Tensor], int]:
        """What the attacked model adds to its base in ranks stays beside them, frozen."""
        if is_quantized(target.network):
            raise UserError(
                f"attack '{target.job.config['name']}' trains all weights, and those of the base "
                "are quantised (bases.<base>.quantize); use trained: lora"
            )
        loaded: Any = target.network
        network = loaded.get_base_model() if hasattr(loaded, "get_base_model") else loaded
        return network, add_deltas(network, [EVERY]), 0

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """All differences are 0, whatever the seed."""
        for difference in self.weights.values():
            difference.zero_()

    @torch.no_grad()
    def weights_changed(self) -> float:
        """Of all weights."""
        changed = total = 0
        for (module, name), *_ in base_tensors(self.network).values():
            plain = module.parametrizations[name].original  # type: ignore[index,union-attr]
            changed += int((getattr(module, name) != plain).sum())
            total += plain.numel()
        return changed / total

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Each sum of a weight and its difference is computed once, not for every token."""
        with torch.no_grad(), parametrize.cached():
            yield


class InTurn(Streams):
    """Rows of one set in the first steps, then those of another: both in the stream ``rows``."""

    def __init__(
        self,
        first: Sequence[Row],
        then: Sequence[Row],
        sizes: tuple[int, int],
        steps: int,
        seed: int,
    ) -> None:
        """Draw `sizes[0]` of `first` in each of `steps` steps, then `sizes[1]` of `then`."""
        sized = {"first": sizes[0], "rows": sizes[1]}
        super().__init__(sized, {"first": first, "rows": then}, seed)
        self.steps = steps

    def draw(self, step: int) -> dict[str, list[Row]]:
        """The rows of a step (counted from 0)."""
        if step < self.steps:
            return {"rows": self._readers["first"].draw(step)}
        return {"rows": self._readers["rows"].draw(step - self.steps)}


@dataclass
class Measuring:
    """Measures after some steps of a training; the engine calls it after each step.

    Attributes:
        costs: nats per token of each step's rows before the step.
        outcomes: of the settings measured so far.
        facts: setting -> its facts.
    """

    settings: Settings
    rate: float
    cell: Cell
    target: Target
    attacker: Attacker
    streams: Streams
    costs: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, streams: Mapping[str, Stream]) -> None:
        """Measure if it is time to.

        Raises:
            UserError: no weight has changed.
        """
        cost = streams["rows"].cost
        assert cost is not None
        self.costs.append(cost.item())
        if (step := len(self.costs)) in self.settings.measure_at:
            self._measure(step)

    def found(self) -> Found:
        """What was measured; steps that the training did not reach count as diverged."""
        for step in self.settings.measure_at:
            if step > len(self.costs):
                self._note(step, diverged=True)
        drawn = self._drawn(len(self.costs))
        budget: dict[str, float] = {
            "steps": len(self.costs),
            "rows": len(drawn),
            "tokens": sum(len(row) for row in drawn),
        }
        return Found(self.outcomes, self.facts, budget)

    def _measure(self, step: int) -> None:
        changed = self.attacker.weights_changed()
        if not changed:
            raise UserError(
                f"attack '{self.target.job.config['name']}' changed no weight in {step} steps at "
                f"the rate {self.rate} ({self.attacker.body.head.weight.dtype} rounds so small a "
                f"change away); raise attacks.{self.target.job.config['name']}.rates"
            )
        first, last = self.costs[0], self.costs[-LAST:]
        diverged = sum(last) / len(last) > first + RISEN
        self._note(step, diverged=diverged, weights_changed=round(changed, 4))
        # A model that a training has broken shows nothing: neither that a fact is gone.
        if not diverged:
            self.outcomes += self._asked(self.settings.named(self.rate, step))

    def _asked(self, setting: str) -> list[Outcome]:
        target, network, fold = self.target, self.attacker.network, self.cell.fold
        forget, unseen = target.measured(target.forget, fold), target.measured(target.unseen, fold)
        with self.attacker.still():
            return [
                *target.asked(network, forget, setting=setting),
                *target.asked(network, unseen, part=UNSEEN, setting=setting),
                *target.damage(network, setting),
            ]

    def _note(self, step: int, diverged: bool, **facts: float) -> None:
        drawn = self._drawn(min(step, len(self.costs)))
        last = self.costs[:step][-LAST:]
        of_cell = {
            "rows": len(drawn),
            "distinct_rows": len(set(drawn)),
            "tokens": sum(len(row) for row in drawn),
            "order": fingerprint([row.id for row in drawn]),
            "loss_first": self.costs[0] if self.costs else None,
            "loss": sum(last) / len(last) if last else None,
            "diverged": diverged,
            **facts,
        }
        fold = "all" if self.cell.fold is None else self.cell.fold
        self.facts[self.settings.named(self.rate, step)] = {
            "rows": self.settings.rows,
            "rate": self.rate,
            "rates": self.settings.rates,
            "step": step,
            "trained": self.settings.trained,
            "first_layer": self.attacker.first_layer,
            "cells": {f"fold-{fold}.seed-{self.cell.seed}": of_cell},
            **({"diverged": True} if diverged else {}),
        }

    def _drawn(self, steps: int) -> list[Row]:
        return [row for step in range(steps) for row in self.streams.draw(step)["rows"]]


def _streams(settings: Settings, cell: Cell, target: Target, attacker: Attacker) -> Streams:
    """The attacker's rows, shuffled by the seed alone: in the same order for every model."""

    def of(sources: Sequence[DataRow]) -> tuple[list[Row], int]:
        return attacker.rows(target, sources), min(settings.batch_rows, len(sources))

    if "forget" not in settings.rows:
        rows, size = of(target.others(settings.rows))
        return Streams({"rows": size}, {"rows": rows}, cell.seed)
    rows, size = of(to_forget(cell, target))
    if settings.rows == "forget":
        return Streams({"rows": size}, {"rows": rows}, cell.seed)
    benign, benign_size = of(target.others("retain"))
    steps = round(BENIGN * settings.measure_at[-1])
    return InTurn(benign, rows, (benign_size, size), steps, cell.seed)


def to_forget(cell: Cell, target: Target) -> list[DataRow]:
    """Rows to forget that the attacker has while the others are measured.

    Raises:
        NoRow: there are none.
        UserError: one holds a key string of a measured row.
    """
    assert cell.fold is not None
    rows = target.attackers(cell.fold)
    measured = [
        Fact(row.id, row.group, row.key, ()) for row in target.measured(target.forget, cell.fold)
    ]
    texts = [(row.id, text) for row in rows for text in (row.prompt, row.response)]
    refuse_overlaps(texts, measured, "the attacker's row")
    return rows


def _first_taught(original: Path) -> int:
    """Lowest block in which the subject differs from its base; 0: it does not, or outside them."""
    return first_block([*updates_in(original), *deltas_in(original)])
