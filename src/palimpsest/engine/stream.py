"""A stream: the rows that one term of the loss reads, after the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from palimpsest.engine import head as heads
from palimpsest.engine.rows import IGNORED, Row

Levels = Mapping[int, Sequence[Tensor]]
"""Block -> its output for each row, [length, width]; -1: what enters the first trained block."""


@dataclass(eq=False)
class Stream:
    """Rows of one step with their hidden states.

    Only the positions that a term asks for reach the language-model head.

    Attributes:
        rows: the rows.
        hidden: final hidden states of each row, [length, width] (empty if the pass ends earlier).
        head: the language-model head.
        blocks: outputs of blocks, where the objective reads them.
        untrained: the same of the untrained model.
        cost: nats per token that `nll` last found, of rows with the sign +1; None before.
    """

    rows: Sequence[Row]
    hidden: Sequence[Tensor]
    head: heads.Head
    blocks: Levels = field(default_factory=dict)
    untrained: Levels = field(default_factory=dict)
    cost: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return (self.hidden or next(iter(self.blocks.values())))[0].device

    @property
    def signs(self) -> Tensor:
        """Sign of each row of a mixture, [rows]."""
        return torch.tensor([row.sign for row in self.rows], device=self.device)

    def of_sign(self, sign: int) -> Stream | None:
        """The rows of a mixture that have this sign, or None."""
        chosen = [i for i, row in enumerate(self.rows) if row.sign == sign]
        rows, hidden = [self.rows[i] for i in chosen], [self.hidden[i] for i in chosen]
        return Stream(rows, hidden, self.head) if chosen else None

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of each row's targets, nats, [rows].

        A row without a target that counts costs 0.
        """
        per_row = self.token_nll().split(self._counts())
        return torch.stack([t.mean() if len(t) else t.sum() for t in per_row])

    def token_nll(self) -> Tensor:
        """Negative log-likelihood of every target that counts, nats, [tokens]."""
        values = self._at_targets(lambda states, labels: heads.nll(states, labels, self.head))
        # Rows of a mixture that are to be forgotten may cost anything.
        counts = torch.tensor(self._counts(), device=self.device)
        kept = (self.signs > 0).repeat_interleave(counts)
        self.cost = _mean(values.detach()[kept])
        return values

    def entropy(self) -> Tensor:
        """Entropy of the prediction of every target that counts, nats, [tokens]."""
        return self._at_targets(lambda states, _: heads.entropy(states, self.head))

    def kl_from_uniform(self) -> Tensor:
        """KL(uniform || q) at every target that counts, nats, [tokens]."""
        return self._at_targets(lambda states, _: heads.kl_from_uniform(states, self.head))

    def log_one_minus_p(self, threshold: float) -> Tensor:
        """log(1 - q(target)) of every target that counts, [tokens].

        0 where log q(target) is below `threshold`.
        """
        return self._at_targets(
            lambda states, labels: heads.log_one_minus_p(states, labels, self.head, threshold)
        )

    def kl(self, positions: Literal["all", "answer"] = "all") -> Tensor:
        """KL(p || q) from the subject (p) at each predicting position, nats, [positions].

        Args:
            positions: ``answer``: the positions that predict targets that count; ``all``: all that
                predict a token, also those of the prompt.
        """
        spans = self._spans(positions)
        states = torch.cat([h[s] for h, s in spans])
        reference = torch.cat(
            [_reference(row)[s] for row, (_, s) in zip(self.rows, spans, strict=True)]
        )
        if positions == "answer" and not (counts := self._labels() != IGNORED).all():
            counts = counts.to(states.device)
            states, reference = states[counts], reference[counts.to(reference.device)]
        return heads.kl(states, reference.to(states), self.head)

    def levels(self) -> list[Sequence[Tensor]]:
        """States of each row at every level that was read, from the lowest to the final one."""
        return [*(self.blocks[block] for block in sorted(self.blocks)), self.hidden]

    def _at_targets(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        states = torch.cat([h[s] for h, s in self._spans("answer")])
        labels = self._labels().to(states.device)
        counts = labels != IGNORED
        if not counts.all():
            states, labels = states[counts], labels[counts]
        # Without any target the value is an empty sum that still belongs to the graph.
        return function(states, labels) if len(labels) else states.sum(-1)

    def _labels(self) -> Tensor:
        return torch.cat([row.targets for row in self.rows])

    def _counts(self) -> list[int]:
        return [int((row.targets != IGNORED).sum()) for row in self.rows]

    def _spans(self, positions: Literal["all", "answer"]) -> list[tuple[Tensor, slice]]:
        # The state at position t predicts token t + 1.
        return [
            (h, slice(row.prompt_length - 1 if positions == "answer" else 0, len(row) - 1))
            for row, h in zip(self.rows, self.hidden, strict=True)
        ]


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()


def _reference(row: Row) -> Tensor:
    if row.reference is None:
        raise ValueError(f"row {row.id} was read without its reference states")
    return row.reference
