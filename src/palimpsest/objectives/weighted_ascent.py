"""Gradient ascent that weighs each token: WGA, SatImp, TNPO, WTNPO.

With x_t = q(y_t | y_<t) of the trained model, p_t the subject's probability of the same token, l_t
= -log x_t, and N tokens of the batch (arXiv:2502.19301 and, for SatImp, arXiv:2505.11953)::

    L_f = -(1/N) sum_t w_t l_t
    wga:     w = x^beta
    satimp:  w = x^beta1 (1 - x)^beta2
    tnpo:    w = 2 x^beta / (x^beta + p^beta)              = 2 sigmoid(beta (log x - log p))
    wtnpo:   w = 2 x^(beta + alpha) / (x^beta + p^beta)

The weights carry no gradient; with one through x^beta the method would turn round where
x < e^(-1/beta). A token that is forgotten weighs nothing, so nothing runs away; SatImp also spares
the tokens that are known best. WGA with beta 0 is plain ascent on the mean over tokens, which is
the forget half of OpenUnlearning's GradDiff.

Weights are computed from logarithms. The released TNPO adds 1e-5 to the denominator instead, which
at beta 4 switches off every token below a probability of 0.056.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start
from palimpsest.settings.types import NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class WeightedAscent(KeepingObjective):
    """Gradient ascent whose tokens are weighed."""

    start: Start = "fresh"

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        costs = rows.token_nll()
        return -mean(self.token_weights(costs.detach(), rows) * costs)

    @abstractmethod
    def token_weights(self, costs: Tensor, rows: Stream) -> Tensor:
        """w of every target that counts, [tokens].

        Args:
            costs: l of these targets, without gradient, [tokens].
            rows: the rows.
        """


class Wga(WeightedAscent):
    """WGA: settings and weights."""

    algorithm: Literal["wga"]
    """Ascent whose tokens weigh the less, the more of them is forgotten."""
    beta: NonNegative = 1.0
    """Power of the token's probability; 0 is plain ascent."""

    tunes = (*WeightedAscent.tunes, "beta")

    def token_weights(self, costs: Tensor, rows: Stream) -> Tensor:
        """x^beta."""
        return (-self.beta * costs).exp()


class SatImp(WeightedAscent):
    """SatImp: settings and weights."""

    algorithm: Literal["satimp"]
    """WGA that spares the tokens that are known best, too."""
    beta1: NonNegative = 5.0
    """Power of the token's probability x."""
    beta2: NonNegative = 0.1
    """Power of 1 - x; 0 is WGA."""

    tunes = (*WeightedAscent.tunes, "beta1")

    def token_weights(self, costs: Tensor, rows: Stream) -> Tensor:
        """x^beta1 (1 - x)^beta2."""
        # A cost may round to just below 0, and the root of what is left would be no number.
        unknown = -(-costs).clamp(max=0).expm1()
        return (-self.beta1 * costs).exp() * unknown**self.beta2


class ComparedAscent(WeightedAscent):
    """Gradient ascent whose tokens are weighed by how far they are below the subject's."""

    beta: Positive = 4.0
    """How soon a token is left alone."""

    def forget_draw(self) -> Draw:
        """Forget rows with the subject's costs."""
        return Draw(self.rows.forget, ("forget",), reference="costs", forgets=True)

    def brake(self, costs: Tensor, rows: Stream) -> Tensor:
        """2 x^beta / (x^beta + p^beta)."""
        return 2 * (self.beta * (rows.reference_costs() - costs)).sigmoid()


class Tnpo(ComparedAscent):
    """TNPO: settings and weights."""

    algorithm: Literal["tnpo"]
    """NPO with a brake for each token."""

    tunes = (*ComparedAscent.tunes, "beta")

    def token_weights(self, costs: Tensor, rows: Stream) -> Tensor:
        """2 x^beta / (x^beta + p^beta)."""
        return self.brake(costs, rows)


class WTnpo(ComparedAscent):
    """WTNPO: settings and weights."""

    algorithm: Literal["wtnpo"]
    """TNPO times a power of the token's probability."""
    alpha: NonNegative = 1.5
    """Power of the token's probability; 0 is TNPO."""

    tunes = (*ComparedAscent.tunes, "alpha")

    def token_weights(self, costs: Tensor, rows: Stream) -> Tensor:
        """2 x^(beta + alpha) / (x^beta + p^beta)."""
        return self.brake(costs, rows) * (-self.alpha * costs).exp()
