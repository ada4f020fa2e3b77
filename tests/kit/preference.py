"""Rows of the golden values of preference losses, in float64: 11 tokens, the head is the identity.

The logits at target t = 0.. of row b are

    z[v] = 1.7 sin(0.9 v + 1.1 t + 0.6 b + phase) + bonus [v = y],   y = (a b + c t + d) mod 11
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

VOCABULARY = 11


@dataclass(frozen=True)
class Model:
    """What sets a model's logits apart from another's."""

    phase: float
    bonus: float


@dataclass(frozen=True)
class Rows:
    """Rows by their numbers of targets, the factors of their targets, and both models on them."""

    targets: tuple[int, ...]
    a: int
    c: int
    d: int
    trained: Model
    subject: Model

    def labels(self, b: int) -> Tensor:
        """Targets of row b, int64 [targets]."""
        return (self.a * b + self.c * torch.arange(self.targets[b]) + self.d) % VOCABULARY

    def logits(self, b: int, model: Model) -> Tensor:
        """Its logits at each target, [targets, 11]."""
        t = torch.arange(self.targets[b], dtype=torch.float64)[:, None]
        v = torch.arange(VOCABULARY, dtype=torch.float64)[None]
        waves = 1.7 * (0.9 * v + 1.1 * t + 0.6 * b + model.phase).sin()
        return (
            waves + model.bonus * torch.nn.functional.one_hot(self.labels(b), VOCABULARY).double()
        )

    def stream(self) -> Stream:
        """The rows after the trained model's forward pass; the subject's costs and states."""
        rows, states = [], []
        for b in range(len(self.targets)):
            labels = self.labels(b)
            logs = self.logits(b, self.subject).log_softmax(-1)
            costs = -logs.gather(1, labels[:, None])[:, 0]
            ids = torch.cat([torch.zeros(1, dtype=torch.int64), labels])
            reference = torch.cat([self.logits(b, self.subject), torch.zeros(1, VOCABULARY)])
            rows.append(Row(f"row-{b}", ids, 1, reference, reference_costs=costs))
            states.append(torch.cat([self.logits(b, self.trained), torch.zeros(1, VOCABULARY)]))
        return Stream(rows, states, lambda hidden: hidden)


FORGET = Rows((4, 2, 3), 3, 5, 1, trained=Model(0.2, 1.5), subject=Model(0.5, 2.5))
WANTED = Rows((3, 4, 2), 4, 2, 3, trained=Model(0.8, 0.5), subject=Model(1.0, 0.7))
"""Alternates or refusals to the prompts of `FORGET`, row by row."""
RETAIN = Rows((2, 5), 2, 7, 2, trained=Model(1.3, 2.2), subject=Model(1.4, 2.4))
REFUSALS = Rows((3, 2), 5, 3, 4, trained=Model(0.1, 0.3), subject=Model(0.1, 0.3))
"""Refusals to the prompts of `RETAIN`, row by row; what the subject makes of them is not given."""
