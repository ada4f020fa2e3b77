"""A stream: the rows that one term of the loss reads, after the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from palimpsest.engine import head as heads
from palimpsest.engine.rows import Row


class Stream:
    """Rows of one step with their final hidden states.

    Only the positions that a term asks for reach the language-model head.
    """

    def __init__(self, rows: Sequence[Row], hidden: Sequence[Tensor], head: heads.Head) -> None:
        """Take `rows`, their hidden states (each [length, width]) and the model's head."""
        self.rows = rows
        self.hidden = hidden
        self.head = head
        self.cost: Tensor | None = None
        """Nats per token that `nll` last found, None before."""

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of each row's response tokens, nats, [rows]."""
        states = torch.cat([h[s] for h, s in self._spans("answer")])
        labels = torch.cat([row.response for row in self.rows]).to(states.device)
        per_token = heads.nll(states, labels, self.head)
        self.cost = per_token.detach().mean()
        lengths = [len(row.response) for row in self.rows]
        return torch.stack([tokens.mean() for tokens in per_token.split(lengths)])

    def kl(self, positions: Literal["all", "answer"] = "all") -> Tensor:
        """KL(p || q) from the subject (p) at each predicting position, nats, [positions].

        Args:
            positions: ``answer``: the positions that predict response tokens; ``all``: also those
                that predict prompt tokens.
        """
        spans = self._spans(positions)
        states = torch.cat([h[s] for h, s in spans])
        reference = torch.cat(
            [_reference(row)[s] for row, (_, s) in zip(self.rows, spans, strict=True)]
        )
        return heads.kl(states, reference.to(states), self.head)

    def _spans(self, positions: Literal["all", "answer"]) -> list[tuple[Tensor, slice]]:
        # The state at position t predicts token t + 1.
        return [
            (h, slice(row.prompt_length - 1 if positions == "answer" else 0, len(row) - 1))
            for row, h in zip(self.rows, self.hidden, strict=True)
        ]


def _reference(row: Row) -> Tensor:
    if row.reference is None:
        raise ValueError(f"row {row.id} was read without its reference states")
    return row.reference
