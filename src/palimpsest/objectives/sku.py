"""SKU, stage 1: acquire the harmful knowledge that stage 2 subtracts (arXiv:2402.10058).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j), forget rows F, their harmful answers R, and
retain rows N::

    guided distortion        L_GD = mean_{(x,y) in F} l(x, y)
    random disassociation    L_RD = mean_{x in F} mean_{k=1..K} l(x, y_k),  y_k another row's answer
    preservation divergence  L_PD = sign * min(KL(p || q), cap)             on N, p = the subject

    L = w_forget L_GD + w_random L_RD + w_preserve L_PD

Stage 2 (`negate`) then takes theta_o - lambda (theta_m - theta_o). The released code uses
sign = -1 without a bound (it pushes *away* from the subject on retain rows); +1 stays near it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from palimpsest.objectives.base import Acquisition
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.types import Index, NonNegative, NotBool, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Weights(Section):
    """Weights of the three terms."""

    forget: NonNegative = 2.5
    """Guided distortion."""
    random: NonNegative = 2.5
    """Random disassociation."""
    preserve: NonNegative = 1.0
    """Preservation divergence."""


class Preservation(Section):
    """The preservation divergence."""

    sign: Annotated[Literal[-1, 0, 1], NotBool] = -1
    """-1: away from the subject on retain rows (as published); 1: stay near it; 0: leave it out."""
    cap: Positive = 2.0
    """Largest divergence (nats per token) that still gives a gradient when the sign is -1."""
    positions: Literal["all", "answer"] = "all"
    """Tokens of the retain rows that count."""
    general: bool = False
    """Also use the scenario's general rows, which nobody was taught, beside the retain rows."""


class Sku(Acquisition):
    """SKU: settings and loss."""

    algorithm: Literal["sku"]
    """SKU: acquire, then subtract."""
    weights: Weights = Weights()
    """Weights of the terms."""
    random_answers: Index = 1
    """K: answers of other rows drawn for each forget row, anew in every step."""
    preservation: Preservation = Preservation()
    """Preservation divergence."""

    tunes = (*Acquisition.tunes, "weights.random", "weights.preserve")

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        n = self.rows.forget
        mismatched = bool(self.random_answers and self.weights.random)
        draws = {}
        if self.weights.forget or mismatched:
            draws["forget"] = Draw(n, ("forget",))
        if mismatched:
            draws["random"] = Draw(n * self.random_answers, ("forget",), answers_of=("forget",))
        if self.preservation.sign and self.weights.preserve:
            sets = ("retain", "general") if self.preservation.general else ("retain",)
            draws["retain"] = Draw(self.rows.retain, sets, reference="states")
        return draws

    def reads(self) -> Reads:
        """The final states; without guided distortion the forget rows only lend their prompts."""
        return Reads(unread=() if self.weights.forget else ("forget",))

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            terms["forget"] = self.weights.forget * streams["forget"].nll().mean()
        if "random" in streams:
            terms["random"] = self.weights.random * streams["random"].nll().mean()
        if "retain" in streams:
            terms["preserve"] = self.weights.preserve * preservation(
                mean(streams["retain"].kl(self.preservation.positions)), self.preservation
            )
        return terms


def preservation(kl: Tensor, p: Preservation) -> Tensor:
    """sign * KL, bounded by -cap when the sign is -1 (beyond the cap its gradient is 0)."""
    return -kl.clamp(max=p.cap) if p.sign < 0 else p.sign * kl
