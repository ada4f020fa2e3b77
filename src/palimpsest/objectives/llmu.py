"""LLMU: gradient ascent, random mismatch, and nearness on normal rows (arXiv:2310.10683).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j), forget rows F, and retain rows N (p = the
subject, q = the trained model)::

    L_fgt = -mean_{(x,y) in F} l(x, y)
    L_rdn = mean_{x in F} mean_{k=1..K} l(x, y_k),   y_k the answer of a retain row
    L_nor = KL(p || q) on N

    L = w_forget L_fgt + w_random L_rdn + w_retain L_nor

Training stops once L_fgt has fallen below -``stop_above``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.objectives.stopping import forgotten
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.types import Count, NonNegative, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Weights(Section):
    """Weights of the three terms; a term of weight 0 is not computed."""

    forget: NonNegative = 0.5
    """Gradient ascent on the forget rows."""
    random: NonNegative = 1.0
    """Random mismatch."""
    retain: NonNegative = 1.0
    """Nearness to the subject on retain rows."""


class Llmu(Unlearning):
    """LLMU: settings and loss."""

    algorithm: Literal["llmu"]
    """Gradient ascent + random mismatch + forward KL."""
    weights: Weights = Weights()
    """Weights of the terms."""
    random_answers: Count = 1
    """K: answers of retain rows drawn for each forget row, anew in every step."""
    positions: Literal["all", "answer"] = "all"
    """Tokens of the retain rows that the divergence counts."""
    stop_above: Positive | None = 100.0
    """Stop once a step's forget rows cost more than this (mean nats per token)."""

    tunes = (*Unlearning.tunes, "weights.random")

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        n = self.rows.forget
        draws = {}
        if self.weights.forget or self.weights.random:
            draws["forget"] = Draw(n, ("forget",))
        if self.weights.random:
            draws["random"] = Draw(n * self.random_answers, ("forget",), answers_of=("retain",))
        if self.weights.retain:
            draws["retain"] = Draw(self.rows.retain, ("retain",), reference="states")
        return draws

    def reads(self) -> Reads:
        """The final states; without a forget term its rows only lend their prompts."""
        return Reads(unread=() if self.weights.forget else ("forget",))

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            terms["forget"] = -self.weights.forget * streams["forget"].nll().mean()
        if "random" in streams:
            terms["random"] = self.weights.random * streams["random"].nll().mean()
        if "retain" in streams:
            terms["retain"] = self.weights.retain * mean(streams["retain"].kl(self.positions))
        return terms

    def finished(self, streams: Mapping[str, Stream]) -> str | None:
        """The forget rows cost more than ``stop_above``."""
        return forgotten(streams["forget"], self.stop_above) if "forget" in streams else None
