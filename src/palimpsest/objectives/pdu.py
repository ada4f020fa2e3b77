"""Primal-dual unlearning (PDU, arXiv:2506.05314): forgetting as far as a stated retain cost allows.

z are the logits that predict a token of a forget row; r is the mean cost of a retain row's token::

    f = mean_t (max_v z - mean_v z)^2          0 where the logits are level
    minimise f subject to r <= epsilon

    L = w_forget f + lambda (r - epsilon)
    lambda <- max(0, lambda + rate (r - epsilon))   once after each step, from `warmup_steps` on

lambda begins at `multiplier`, and the step log has it (``state``). A retain cost above epsilon
raises it, so keeping counts more. epsilon is a number, or so much above what the retain rows of the
first step cost the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import Index, NonNegative, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Epsilon(Section):
    """The retain cost that is allowed, in nats per token."""

    value: NonNegative | None = None
    """epsilon itself; null: relative to the start."""
    above_start: NonNegative = 0.1
    """Above what the retain rows of the first step cost the subject, where `value` is null."""


class Pdu(Unlearning):
    """PDU: settings and loss."""

    algorithm: Literal["pdu"]
    """Level the logits on forget rows, while retain rows cost at most epsilon."""
    forget_weight: Positive = 1.0
    """Weight of the forget term; the retain term's is lambda."""
    multiplier: NonNegative = 100.0
    """lambda in the first step."""
    rate: NonNegative = 5.0
    """How fast lambda follows the retain cost; 0: it stays."""
    warmup_steps: Index = 0
    """Steps before lambda moves."""
    epsilon: Epsilon = Epsilon()
    """The retain cost that is allowed."""

    tunes = (*Unlearning.tunes, "epsilon.above_start")

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {
            "forget": Draw(self.rows.forget, ("forget",), forgets=True),
            "retain": Draw(self.rows.retain, ("retain",)),
        }

    def prepare(
        self, first: Callable[[], Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """``epsilon``, a scalar, if it is relative to the start."""
        if self.epsilon.value is not None:
            return {}
        start = mean(first()["retain"].token_nll()).cpu()
        return {"epsilon": start + self.epsilon.above_start}

    def state(self) -> dict[str, Tensor]:
        """``lambda``, a scalar."""
        import torch

        return {"lambda": torch.tensor(self.multiplier, dtype=torch.float64)}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            terms["forget"] = self.forget_weight * mean(streams["forget"].margin().square())
        if "retain" in streams:
            cost = mean(streams["retain"].token_nll())
            terms["retain"] = fixed["lambda"].to(cost) * (cost - self._epsilon(fixed))
        return terms

    def after_step(
        self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """lambda after this step, from the retain rows of all processes."""
        cost = streams["retain"].cost
        step = round(fixed["share"].item() * self.steps)
        if cost is None or step < self.warmup_steps:
            return {}
        moved = fixed["lambda"] + self.rate * (cost.cpu() - self._epsilon(fixed))
        return {"lambda": moved.clamp(min=0)}

    def _epsilon(self, fixed: Mapping[str, Tensor]) -> float:
        value = self.epsilon.value
        return fixed["epsilon"].item() if value is None else value
