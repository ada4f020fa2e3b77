"""Every method on a small model: settings, rows and jobs without files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.engine.assemble import job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row, join
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, first_values, run
from palimpsest.model.delta import add_deltas
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import algorithms, objective
from palimpsest.objectives.elm import Eta, Targets
from palimpsest.settings.draw import Draw, Kind, Wanted
from palimpsest.stages.concept import erased_rows, written_rows
from palimpsest.stages.examples import best_guesses, best_wrong_guesses, generic_guesses, rows_of

ALGORITHMS = tuple(algorithms())
ON_WEIGHTS = tuple(
    key for key, method in algorithms().items() if method.model_fields["start"].default == "weights"
)
DOWN = r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"
RATE: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}, "checkpoint_seconds": 1e9}

SPECIAL = torch.tensor([0, tiny.EOS])
"""Tokens of the small models that are no label."""

ELM = Targets(expert="w9 w12", novice="w40", eta=Eta(last=5.0), top=7, change="w20 w21", tokens=4)
"""How ELM's targets are made on the small models."""

LOAD = {"dtype": "float32", "trust_remote_code": False}
"""Keys of a stage's slice about loading the base."""

SETS = {
    "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5), (6, 2)], seed=1, name="f"),
    "retain": tiny.rows([(4, 4), (5, 6), (3, 3), (6, 7)], seed=2, name="n"),
    "keep": tiny.rows([(4, 3), (5, 4), (3, 6)], seed=5, name="k"),
    "general": tiny.rows([(2, 4), (5, 3), (3, 7), (4, 4)], seed=3, name="g"),
    "declined": tiny.rows([(3, 2), (6, 4), (4, 3)], seed=4, name="d"),
}


NEEDED: dict[str, dict[str, Any]] = {
    "lat": {"attack": {"block": 1}},
    "lunar": {"layer": 2},
    "pdu": {"epsilon": {"value": 0.3}},
    "rmu": {"layer": 2},
    "rmu_lat": {"layer": 2, "attack": {"block": 1}},
    "rr": {"blocks": [1, 2]},
}
"""Keys without a default, or whose default needs a model."""


def method(key: str, **over: Any) -> Any:
    """A configured method, with the keys that have no default; `over` replaces whole keys."""
    keys: dict[str, Any] = {
        "algorithm": key,
        "steps": 3,
        "rows": {"forget": 2, "retain": 2},
        "training": {**RATE, "parameters": [DOWN]} if key in ON_WEIGHTS else RATE,
    }
    return objective({**keys, **NEEDED.get(key, {}), **over})


@dataclass(frozen=True)
class Memory:
    """Rows of a method in memory: a `palimpsest.engine.assemble.Source`.

    Attributes:
        draws: the draws of its streams.
        subject: the model that references and adversarial labels come from.
        seed: seed of mixtures and labels.
        sets: rows of the scenario's sets.
    """

    draws: Mapping[str, Draw]
    subject: Any
    seed: int = 0
    sets: Mapping[str, Sequence[Row]] = field(default_factory=lambda: SETS)

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of a set."""
        rows = list(self.sets[name])
        return tiny.with_reference(self.subject, rows, reference) if reference else rows

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Two random answers to each row of a set."""
        found = {}
        for i, row in enumerate(self.sets[name]):
            lengths = [(1, 2 + i % 3), (1, 4 - i % 3)]
            others = tiny.rows(lengths, 10 * i + len(answers), f"{answers}-{i}")
            found[row.id] = [join(row, other) for other in others]
        if not reference:
            return found
        flat = [answer for of_row in found.values() for answer in of_row]
        compared = iter(tiny.with_reference(self.subject, flat, reference))
        return {name: [next(compared) for _ in of_row] for name, of_row in found.items()}

    def examples(self, stream: str) -> list[Row]:
        """Labelled or mixed rows of a stream."""
        draw = self.draws[stream]
        return rows_of(
            draw,
            [self.sets[name] for name in draw.sets],
            self.seed,
            lambda: torch.arange(2, tiny.VOCABULARY),
            {
                "adversarial": self._best_wrong,
                "generic": self._generic,
                "best": lambda rows: best_guesses(Body(self.subject), rows),
                "erased": self._erased,
                "written": self._written,
            },
            lambda _: torch.tensor([9, 14, 11]),
        )

    def _erased(self, rows: Sequence[Row]) -> list[Row]:
        return erased_rows(Body(self.subject), tiny.tokenizer(), rows, ELM)

    def _written(self, rows: Sequence[Row]) -> list[Row]:
        return written_rows(self.subject, tiny.tokenizer(), rows, ELM)

    def _best_wrong(self, rows: Sequence[Row]) -> list[Row]:
        return best_wrong_guesses(Body(self.subject), rows, SPECIAL)

    def _generic(self, rows: Sequence[Row]) -> list[Row]:
        body = Body(self.subject)
        reinforced, _ = tiny.with_lora(self.subject)
        more = Body(reinforced.get_base_model())
        return generic_guesses(body.hidden, more.hidden, body.head, rows, SPECIAL, 5.0)


@dataclass
class Bench:
    """One method on a small model.

    Attributes:
        method: the configured method.
        model: the model that is trained.
        job: the argument of `train`.
        untrained: first values of the trained tensors.
    """

    method: Objective
    model: Any
    job: Job
    untrained: dict[str, Tensor]

    def streams(self, step: int = 0) -> dict[str, Stream]:
        """The streams of a step after the forward pass."""
        untrained = self.untrained if self.job.reads.untrained else {}
        return run(self.job, self.job.streams.draw(step), untrained)

    def terms(self, step: int = 0) -> dict[str, Tensor]:
        """The terms of a step."""
        return self.job.loss(self.streams(step))

    def gradients(self, step: int = 0) -> dict[str, Tensor]:
        """Gradient of a step's loss to each trained tensor (zeros where there is none)."""
        names, weights = zip(*self.job.weights.items(), strict=True)
        loss = torch.stack(list(self.terms(step).values())).sum()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return dict(zip(names, gradients, strict=True))


def bench(
    key: str,
    folder: Path = Path("unused"),
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    moved: bool = True,
    body: type[Body] = Body,
    sets: Mapping[str, Sequence[Row]] = SETS,
    inner: int = tiny.INNER,
    **over: Any,
) -> Bench:
    """A method with a small Llama, LoRA or differences on it, and rows.

    Args:
        key: the algorithm.
        folder: folder of checkpoints and the log.
        dtype: type of model and trained tensors.
        seed: seed of draws, labels and fixed tensors.
        moved: move the trained tensors away from their first values (which are in `untrained`).
        body: class of the body.
        sets: rows of the scenario's sets.
        inner: width of the MLP.
        over: settings.
    """
    configured = method(key, **over)
    subject = tiny.llama(dtype, intermediate_size=inner)
    if configured.training.parameters:
        model = copy.deepcopy(subject)
        weights = add_deltas(model, configured.training.parameters)
        for weight in weights.values():
            weight.data = weight.data.to(dtype)
        network = model
    else:
        model, weights = tiny.with_lora(subject, moved=False)
        network = model.get_base_model()
    untrained = first_values(weights)
    draws = configured.draws()
    job = job_of(
        configured,
        streams_of(draws, Memory(draws, subject, seed, sets), seed),
        body(network, 1 if configured.training.parameters else 0),
        weights,
        label=key,
        folder=folder,
        fingerprint=key,
    )
    if moved:
        tiny.perturb(weights)
    return Bench(configured, model, job, untrained)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Sum of the terms of a step."""
    return torch.stack(list(terms.values())).sum()


def assert_same_gradients(one: Sequence[Tensor], other: Sequence[Tensor], tolerance: float) -> None:
    """Each of `one` is within `tolerance` of the largest entry of all of `other`."""
    assert len(one) == len(other)
    largest = max(b.abs().max().item() for b in other)
    assert largest > 0
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max().item() <= tolerance * largest
