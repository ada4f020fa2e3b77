"""Trains vectors that stand before each row in place of tokens; the model stays as it is."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.attacking.relearning import LAST, RISEN, to_forget
from palimpsest.attacking.target import Target
from palimpsest.attacks import FORGET, RETAIN, Cell, Found, Outcome
from palimpsest.attacks.soft_prompt import Settings
from palimpsest.engine.assemble import body_of, job_of
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Diverged, train
from palimpsest.errors import UserError
from palimpsest.io.canonical import fingerprint
from palimpsest.objectives.teaching import Teaching
from palimpsest.settings.method import Rows
from palimpsest.settings.training import Optimizer, Training


def attack(settings: Settings, rate: float, cell: Cell, target: Target) -> Found:
    """Train with one rate, on one fold, with one seed, and ask the rows of the fold.

    Raises:
        NoRow: the attacker has no rows.
        UserError: a text gives a measured row away, or the training changed no vector.
    """
    name = target.job.config["name"]
    target.refuse_keys({"begin": settings.begin}, f"attack '{name}', its text")
    soft = target.once("soft", lambda: SoftPrompt.of(target, settings))
    rows = soft.before(target.rows(to_forget(cell, target)))
    size = min(settings.batch_rows, len(rows))
    streams = Streams({"rows": size}, {"rows": rows}, cell.seed)
    with soft.standing(), tempfile.TemporaryDirectory() as folder:  # has the step log alone
        costs, whole = soft.train(settings, rate, streams, target, Path(folder))
        diverged = not whole or sum(costs[-LAST:]) / len(costs[-LAST:]) > costs[0] + RISEN
        # A model that a training has broken shows nothing: neither that a fact is gone.
        outcomes = [] if diverged else list(_asked(soft, settings, cell, target))
    if whole and not soft.changed():
        raise UserError(
            f"attack '{name}' changed no vector in {settings.steps} steps at the rate {rate} "
            f"({soft.first.dtype} rounds so small a change away); raise attacks.{name}.rates"
        )
    drawn = [row for step in range(len(costs)) for row in streams.draw(step)["rows"]]
    of_cell = {
        "rows": len(drawn),
        "order": fingerprint([row.id for row in drawn]),
        "loss_first": costs[0] if costs else None,
        "loss": sum(costs[-LAST:]) / len(costs[-LAST:]) if costs else None,
        "diverged": diverged,
    }
    facts = {
        "rate": rate,
        "rates": settings.rates,
        "steps": settings.steps,
        "length": settings.length,
        "cells": {f"fold-{cell.fold}.seed-{cell.seed}": of_cell},
        **({"diverged": True} if diverged else {}),
    }
    budget: dict[str, float] = {
        "steps": len(costs),
        "rows": len(drawn),
        "tokens": sum(map(len, drawn)),
    }
    return Found(outcomes, {cell.setting: facts}, budget)


def _asked(soft: SoftPrompt, settings: Settings, cell: Cell, target: Target) -> Iterator[Outcome]:
    """The rows of the fold after the vectors, and in the first fold those to keep."""
    parts = [(FORGET, target.measured(target.forget, cell.fold))]
    if cell.fold == settings.folds[0]:  # the vectors of the two folds do much the same damage
        parts.append((RETAIN, target.retain))
    for part, sources in parts:
        rows = soft.before(target.questions(sources))
        answers = target.answers(target.network, rows, shared=soft.ahead(rows), part=part)
        yield from target.written(sources, answers, part)


@dataclass
class SoftPrompt:
    """Vectors before each row of the attacked model; one for all cells of a job.

    A vector's token id lies above those of the vocabulary.

    Attributes:
        embedding: the model's own, whose weight stays.
        first: first values of the vectors, [length, width], in the model's number type.
        vectors: what is trained, fp32.
        body: runs training rows.
        start: the tokenizer's token for the beginning of a text; None: there is none. The vectors
            stand after it, unless a prompt has it again: then it begins each turn of a talk.
    """

    embedding: Any
    first: Tensor
    vectors: Tensor
    body: Body
    start: int | None

    @classmethod
    @torch.no_grad()
    def of(cls, target: Target, settings: Settings) -> SoftPrompt:
        """Begin with the embeddings of the settings' text."""
        network: Any = target.network
        embedding: nn.Module = network.get_input_embeddings()
        ids = target.tokenizer(settings.begin, add_special_tokens=False)["input_ids"]
        places = [ids[place % len(ids)] for place in range(settings.length)]
        first = embedding(torch.tensor([places], device=target.device))[0]
        body = body_of(network, 0, Training(optimizer=Optimizer(learning_rate=1.0)))
        start = getattr(target.tokenizer, "bos_token_id", None)
        vectors = first.float().clone()
        return cls(embedding, first, vectors.requires_grad_(), body, start)

    def before(self, rows: Sequence[Row]) -> list[Row]:
        """Token rows with the vectors before each prompt."""
        own = torch.arange(len(self.first)) + self.embedding.num_embeddings
        found = []
        for row in rows:
            at = self._at(row)
            ids = torch.cat([row.ids[:at], own, row.ids[at:]])
            found.append(replace(row, ids=ids, prompt_length=row.prompt_length + len(own)))
        return found

    def _at(self, row: Row) -> int:
        starts = [place for place, id_ in enumerate(row.prompt.tolist()) if id_ == self.start]
        return int(starts == [0])

    def ahead(self, rows: Sequence[Row]) -> int:
        """First tokens that all prompts have in common: the vectors, and what begins every text."""
        places = {self._at(row) for row in rows}
        return len(self.first) + places.pop() if len(places) == 1 else 0

    def changed(self) -> bool:
        """Whether a vector differs from its first value, in the model's number type."""
        return not torch.equal(self.vectors.to(self.first.dtype), self.first)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Within the block the model knows the vectors, which begin at their first values."""
        plain, size = self.embedding.forward, self.embedding.num_embeddings
        with torch.no_grad():
            self.vectors.copy_(self.first)

        def forward(ids: Tensor) -> Tensor:
            own = ids >= size
            known: Tensor = plain(ids.masked_fill(own, 0))
            vectors = self.vectors[(ids - size).clamp(min=0)].to(known.dtype)
            return torch.where(own[..., None], vectors, known)

        self.embedding.forward = forward
        try:
            yield
        finally:
            del self.embedding.forward  # the class's own is there again

    def train(
        self, settings: Settings, rate: float, streams: Streams, target: Target, folder: Path
    ) -> tuple[list[float], bool]:
        """Train the vectors.

        Returns:
            Nats per token of each step's rows before the step, and whether it came to its end.
        """
        optimizer = Optimizer(
            learning_rate=rate,
            schedule="constant",
            warmup_steps=settings.warmup_steps,
            weight_decay=0,
        )
        teaching = Teaching(
            steps=settings.steps,
            rows=Rows(retain=streams.sizes["rows"]),
            training=Training(optimizer=optimizer),
        )
        job = job_of(
            teaching,
            streams,
            self.body,
            {"vectors": self.vectors},
            label=f"{target.job.label} {target.cell}".rstrip(),
            folder=folder,
            fingerprint="",
        )
        costs: list[float] = []

        def note(read: Mapping[str, Stream]) -> None:
            cost = read["rows"].cost
            assert cost is not None
            costs.append(cost.item())

        try:
            train(replace(job, finished=note, checkpoint_seconds=math.inf))
        except Diverged as error:
            print(f"{job.label}: {error}", flush=True)
            return costs, False
        return costs, True
