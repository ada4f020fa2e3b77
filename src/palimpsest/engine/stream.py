"""A stream: the rows that one term of the loss reads, with their states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from palimpsest.engine import ranks
from palimpsest.engine.kernels import head as heads
from palimpsest.engine.rows import IGNORED, Row

Levels = Mapping[int, Sequence[Tensor]]
"""Block -> its output for each row, [length, width]; -1: the input of the first trained block."""


@dataclass(eq=False)
class Stream:
    """Rows of one step with their hidden states.

    Only the positions that a term needs reach the language-model head. If several processes train,
    each has the final states of its own rows alone. The values computed from them are gathered
    here, so an objective always gets those of all rows (see `palimpsest.engine.ranks`).

    Attributes:
        rows: the rows.
        hidden: final hidden states of each row, [length, width], or [0, width] for a row of
            another process; an empty list if the pass ends earlier.
        head: the language-model head.
        blocks: outputs of blocks, if the objective reads them.
        untrained: the same outputs of the model before training.
        cost: nats per token of the rows with the sign +1, from the last call of `nll` or
            `token_nll`; None before.
    """

    rows: Sequence[Row]
    hidden: Sequence[Tensor]
    head: heads.Head
    blocks: Levels = field(default_factory=dict)
    untrained: Levels = field(default_factory=dict)
    cost: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return (self.hidden or next(iter(self.blocks.values())))[0].device

    @property
    def signs(self) -> Tensor:
        """Sign of each row, [rows]."""
        return torch.tensor([row.sign for row in self.rows], device=self.device)

    def of_sign(self, sign: int) -> Stream | None:
        """The rows that have this sign, or None."""
        chosen = [i for i, row in enumerate(self.rows) if row.sign == sign]
        rows, hidden = [self.rows[i] for i in chosen], [self.hidden[i] for i in chosen]
        return Stream(rows, hidden, self.head) if chosen else None

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of each row's targets, nats, [rows].

        It is 0 for a row without a target that counts.
        """
        return self.row_means(self.token_nll())

    def token_nll(self) -> Tensor:
        """Negative log-likelihood of every target that counts, nats, [tokens]."""
        values = self._at_targets(lambda states, labels: heads.nll(states, labels, self.head))
        # The cost of rows to forget is left out, because it may take any value.
        counted = zip(self.rows, self._counts(), strict=True)
        to_learn = torch.cat([torch.full((count,), row.sign > 0) for row, count in counted])
        self.cost = _mean(values.detach()[_places(to_learn, self.device)])
        return values

    def weighted_nll(self) -> Tensor:
        """-sum_v w(v) log q(v) over the weighted tokens of every target that counts, [tokens]."""
        local = [_soft(row) for row, h in zip(self.rows, self.hidden, strict=True) if len(h)]
        nothing = torch.empty(0)  # a process without rows
        ids, weights = (
            torch.cat(parts).to(self.device)
            for parts in zip(*local or [(nothing, nothing)], strict=True)
        )
        return self._at_targets(
            lambda states, _: heads.weighted_nll(states, ids, weights, self.head)
        )

    def reference_costs(self) -> Tensor:
        """-log p of the subject at every target that counts, fp32, [tokens]; no gradient.

        It stands beside `token_nll`, value by value, whoever has the states of a row.
        """
        costs = [_costs(row)[row.targets != IGNORED] for row in self.rows]
        return torch.cat(costs).to(self.device)

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums of what stands at each row's targets that count, [rows]; 0 where there is none.

        Args:
            values: a number for each of these targets, [tokens], as `token_nll` gives them.
        """
        return torch.stack([of_row.sum() for of_row in values.split(self._counts())])

    def row_means(self, values: Tensor) -> Tensor:
        """Means of what stands at each row's targets that count, [rows]; 0 where there is none.

        Args:
            values: a number for each of these targets, [tokens], as `token_nll` gives them.
        """
        return torch.stack([_mean(of_row) for of_row in values.split(self._counts())])

    def entropy(self) -> Tensor:
        """Entropy of the prediction of every target that counts, nats, [tokens]."""
        return self._at_targets(lambda states, _: heads.entropy(states, self.head))

    def kl_from_uniform(self) -> Tensor:
        """KL(uniform || q) at every target that counts, nats, [tokens]."""
        return self._at_targets(lambda states, _: heads.kl_from_uniform(states, self.head))

    def log_one_minus_p(self, threshold: float) -> Tensor:
        """log(1 - q(target)) of every target that counts, [tokens].

        It is 0 if log q(target) is below `threshold`.
        """
        return self._at_targets(
            lambda states, labels: heads.log_one_minus_p(states, labels, self.head, threshold)
        )

    def margin(self) -> Tensor:
        """max z - mean z of the logits that predict every target that counts, [tokens]."""
        return self._at_targets(lambda states, _: heads.margin(states, self.head))

    def kl(self, positions: Literal["all", "answer"] = "all") -> Tensor:
        """KL(p || q) from the subject (p) at each predicting position, nats, [positions].

        Args:
            positions: ``answer``: the positions that predict targets that count; ``all``: also
                those that predict the prompt.
        """
        if positions == "answer":
            return self._at_targets(lambda h, r, _: heads.kl(h, r, self.head), compared=True)
        states, reference = self._compared(positions)
        values = heads.kl(states, reference, self.head)
        return self._joined(values, [len(row) - 1 for row in self.rows])

    def js(self) -> Tensor:
        """JS(p, q) between subject (p) and trained model (q) at every target that counts, nats,
        [tokens]; in [0, ln 2].
        """
        return self._at_targets(lambda h, r, _: heads.js(h, r, self.head), compared=True)

    def lowered_nll(self, lowered: float) -> Tensor:
        """Cross-entropy to the subject's prediction with a lowered target, nats, [tokens].

        Args:
            lowered: what is subtracted from the subject's logit of the target.
        """
        return self._at_targets(
            lambda h, r, labels: heads.lowered_nll(h, r, labels, self.head, lowered), compared=True
        )

    def hinge(self) -> Tensor:
        """1 + q(target) - q(likeliest other token) of every target that counts, [tokens]."""
        return self._at_targets(lambda states, labels: heads.hinge(states, labels, self.head))

    def uniform_label(self) -> Tensor:
        """Cross-entropy to the own prediction with the target at 1/V, nats, [tokens]."""
        return self._at_targets(
            lambda states, labels: heads.uniform_label(states, labels, self.head)
        )

    def after(self, skipped: int) -> Stream:
        """The rows without their first targets, which do not count any more.

        Args:
            skipped: number of targets at the beginning of each row.
        """
        if not skipped:
            return self
        rows = []
        for row in self.rows:
            labels = row.targets.clone()
            labels[:skipped] = IGNORED
            rows.append(replace(row, labels=labels))
        return replace(self, rows=rows)

    def levels(self) -> list[Sequence[Tensor]]:
        """States of each row at every level that was read, from the lowest to the final one."""
        final = ranks.joined_rows(self.hidden)
        return [*(self.blocks[block] for block in sorted(self.blocks)), final]

    def _at_targets(self, function: Callable[..., Tensor], compared: bool = False) -> Tensor:
        """A function of the states at targets that count, of the subject's states there if they
        are `compared`, and of the targets.
        """
        states = self._compared("answer") if compared else (self._states("answer"),)
        labels = self._labels()
        counts = labels != IGNORED
        if not counts.all():
            at = _places(counts, self.device)
            states, labels = tuple(h[at] for h in states), labels[counts]
        labels = labels.to(self.device)
        if not len(labels):
            # This keeps the graph connected, in the number type of other processes' values.
            wide = torch.promote_types(states[0].dtype, torch.float32)
            return self._joined(states[0].sum(-1, dtype=wide), self._counts())
        return self._joined(function(*states, labels), self._counts())

    def _states(self, positions: Literal["all", "answer"]) -> Tensor:
        return torch.cat([h[s] for h, s in self._spans(positions)])

    def _compared(self, positions: Literal["all", "answer"]) -> tuple[Tensor, ...]:
        """States of this process's rows, and the subject's at the same positions."""
        states = self._states(positions)
        spans = zip(self.rows, self._spans(positions), strict=True)
        references = [_reference(row)[s] for row, (h, s) in spans if len(h)]
        return states, torch.cat(references).to(states) if references else states

    def _joined(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        return ranks.joined(values, counts, [len(h) > 0 for h in self.hidden])

    def _labels(self) -> Tensor:
        """Targets of this process's rows, int64 [tokens]."""
        labels = [row.targets for row, h in zip(self.rows, self.hidden, strict=True) if len(h)]
        return torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)

    def _counts(self) -> list[int]:
        return [int((row.targets != IGNORED).sum()) for row in self.rows]

    def _spans(self, positions: Literal["all", "answer"]) -> list[tuple[Tensor, slice]]:
        # The state at position t predicts token t + 1.
        return [
            (h, slice(row.prompt_length - 1 if positions == "answer" else 0, len(row) - 1))
            for row, h in zip(self.rows, self.hidden, strict=True)
        ]


def _places(chosen: Tensor, device: torch.device) -> Tensor:
    """Where `chosen` [n], in main memory, is true; a mask on a GPU would have to wait for it."""
    return chosen.nonzero()[:, 0].to(device)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()


def _costs(row: Row) -> Tensor:
    if row.reference_costs is None:
        raise ValueError(f"row {row.id} was read without the subject's costs")
    return row.reference_costs


def _soft(row: Row) -> tuple[Tensor, Tensor]:
    if row.soft_ids is None or row.soft_weights is None:
        raise ValueError(f"row {row.id} has no weighted targets")
    counts = row.targets != IGNORED
    return row.soft_ids[counts], row.soft_weights[counts]


def _reference(row: Row) -> Tensor:
    if row.reference is None:
        raise ValueError(f"row {row.id} has no reference states")
    return row.reference
