"""Methods that share a retain term (Analysis360's) and differ in their forget term.

With the method's forget term L_f, retain rows N, the subject p and the trained model q::

    L   = w_forget L_f + w_retain L_r
    L_r = mean_t -log q(y_t | y_<t) on N    retain_term "ce"
    L_r = mean_t KL(p_t || q_t) on N        retain_term "kl"
    L_r = mean_t JS(p_t, q_t) on N          retain_term "js"
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw, Kind
from palimpsest.settings.method import Start, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


RetainTerm = Literal["ce", "kl", "js"]


class KeepingObjective(Unlearning):
    """A method that defines a forget term and has the common retain term."""

    start: Start = "weights"
    weights: Weights = Weights()
    """Weights of the two terms."""
    retain_term: RetainTerm = "ce"
    """ce: cross-entropy on the retain rows; kl: KL(p || q) from the subject on them; js: JS(p, q),
    which is at most ln 2."""

    def draws(self) -> dict[str, Draw]:
        """Forget and retain rows, each unless its weight is 0."""
        draws = {}
        if self.weights.forget:
            draws["forget"] = self.forget_draw()
        if self.weights.retain:
            compared: Kind | None = None if self.retain_term == "ce" else "states"
            draws["retain"] = Draw(self.rows.retain, ("retain",), reference=compared)
        return draws

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            terms["forget"] = self.weights.forget * self.forget_term(streams["forget"], fixed)
        if "retain" in streams:
            terms["retain"] = self.weights.retain * retain_term(streams["retain"], self.retain_term)
        return terms

    def forget_draw(self) -> Draw:
        """Which rows the forget term reads, and what of the subject's."""
        return Draw(self.rows.forget, ("forget",), forgets=True)

    @abstractmethod
    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f, a scalar without its weight."""


def retain_term(rows: Stream, kind: RetainTerm) -> Tensor:
    """L_r, the mean over tokens."""
    if kind == "ce":
        return mean(rows.token_nll())
    return mean(rows.kl("answer") if kind == "kl" else rows.js())
