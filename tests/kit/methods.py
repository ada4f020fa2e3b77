"""Every algorithm on a small model: settings, rows and jobs without files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.config.methods import algorithm
from palimpsest.engine.body import FINAL, Body
from palimpsest.engine.head import second_best
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, first_values, run
from palimpsest.model.delta import add_deltas
from palimpsest.settings.draw import Draw
from palimpsest.stages.examples import mixture, random_labels

ALGORITHMS = (
    "finetune",
    "gradient_ascent",
    "llmu",
    "sku",
    "task_vector",
    "random_labels",
    "adversarial_labels",
    "ga_gd",
    "ga_gd_ood",
    "ga_kl",
    "ga_kl_ood",
    "memflex",
    "max_entropy",
    "min_posterior",
    "random_matching",
    "rmu",
)
ON_WEIGHTS = ("max_entropy", "min_posterior", "random_matching", "rmu")
DOWN = r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"
RATE = {"optimizer": {"learning_rate": 1e-3}}

SETS = {
    "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5), (6, 2)], seed=1, name="f"),
    "retain": tiny.rows([(4, 4), (5, 6), (3, 3), (6, 7)], seed=2, name="n"),
    "general": tiny.rows([(2, 4), (5, 3), (3, 7), (4, 4)], seed=3, name="g"),
}


def settings(key: str, **over: Any) -> Any:
    """Settings of an algorithm with whatever it needs; `over` replaces whole keys."""
    given: dict[str, Any] = {
        "algorithm": key,
        "steps": 3,
        "rows": {"forget": 2, "retain": 2},
        "training": {**RATE, "parameters": [DOWN]} if key in ON_WEIGHTS else RATE,
    }
    if key == "rmu":
        given |= {"layer": 2}
    return algorithm(key).Settings(**{**given, **over})


def stream_rows(
    draw: Draw, reference: Any, seed: int, sets: Mapping[str, Sequence[Row]] = SETS
) -> list[Row]:
    """Rows of one stream, as the stages make them."""
    chosen = [list(sets[name]) for name in draw.sets]
    if draw.reference:
        chosen[-1] = tiny.with_states(reference, chosen[-1])
    if draw.signs:
        states = {row.id: row.reference for row in chosen[-1]}
        made = mixture(chosen, draw.signs, seed)
        return [replace(row, reference=states.get(row.id)) for row in made]
    rows = [row for part in chosen for row in part]
    if draw.labels == "random":
        return random_labels(rows, torch.arange(2, tiny.VOCABULARY), seed)
    if draw.labels == "adversarial":
        body = Body(reference)
        special = torch.tensor([0, tiny.EOS])
        return [
            replace(
                row,
                labels=second_best(
                    hidden[row.prompt_length - 1 : -1], row.response, body.head, special
                ),
            )
            for row, hidden in zip(rows, body.hidden(rows), strict=True)
        ]
    return rows


@dataclass
class Bench:
    """One algorithm on a small model.

    Attributes:
        objective: its module.
        settings: its settings.
        model: the model that is trained.
        job: what `train` takes.
        vectors: what `prepare` made.
    """

    objective: ModuleType
    settings: Any
    model: Any
    job: Job
    vectors: dict[str, Tensor]

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
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return dict(zip(names, found, strict=True))

    untrained: dict[str, Tensor] = None  # type: ignore[assignment]


def bench(
    key: str,
    folder: Path = Path("unused"),
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    moved: bool = True,
    body: type[Body] = Body,
    sets: Mapping[str, Sequence[Row]] = SETS,
    **over: Any,
) -> Bench:
    """An algorithm with a small Llama, LoRA or differences on it, and rows of its own.

    Args:
        key: the algorithm.
        folder: for checkpoints and the log.
        dtype: of model and trained tensors.
        seed: of draws, labels and vectors.
        moved: the trained tensors are away from where they start (`untrained` keeps that).
        body: class of the body.
        sets: rows of the scenario's sets.
        over: settings.
    """
    objective, s = algorithm(key), settings(key, **over)
    reference = tiny.llama(dtype)
    if s.training.parameters:
        model = copy.deepcopy(reference)
        weights = add_deltas(model, s.training.parameters)
        for weight in weights.values():
            weight.data = weight.data.to(dtype)
        network = model
    else:
        model, weights = tiny.with_lora(reference, moved=False)
        network = model.get_base_model()
    untrained = first_values(weights)
    draws = objective.draws(s)
    streams = Streams(
        {name: draw.rows for name, draw in draws.items()},
        {
            name: stream_rows(draw, reference, seed, sets)
            for name, draw in draws.items()
            if not draw.answers_of
        },
        seed,
        {
            name: [row for part in draw.answers_of for row in sets[part]]
            for name, draw in draws.items()
            if draw.answers_of
        },
    )
    job = Job(
        label=key,
        body=body(network, 1 if s.training.parameters else 0),
        weights=weights,
        streams=streams,
        loss=lambda found: objective.loss(found, s),
        steps=s.steps,
        optimizer=s.training.optimizer,
        folder=folder,
        fingerprint=key,
        checkpoint_seconds=1e9,
        reads=objective.reads(s) if hasattr(objective, "reads") else FINAL,
        finished=(lambda found: objective.finished(found, s))
        if hasattr(objective, "finished")
        else None,
    )
    vectors: dict[str, Tensor] = {}
    if hasattr(objective, "prepare"):
        ids = {n: torch.cat([row.ids for row in rows]) for n, rows in streams.parts.items()}
        with torch.no_grad():
            first = run(job, streams.draw(0), untrained)
            vectors = objective.prepare(first, ids, s, seed)
        job = replace(job, loss=lambda found: objective.loss(found, s, vectors))
    if moved:
        tiny.perturb(weights)
    return Bench(objective, s, model, job, vectors, untrained)
