"""UNDIAL (arXiv:2402.10052): distil the subject's prediction with the true token's logit lowered.

With r_t the subject's logits at target t, q_t the trained model's prediction, N tokens of the
batch::

    p~_t = softmax(r_t - beta 1_y)
    L_f = (1/N) sum_t -sum_v p~_t(v) log q_t(v)

The slope by the logits is q - p~, so the target is bounded, and the method needs no retain rows.
The least value is the mean entropy of p~; with beta 0 that is where it begins (self-distillation),
and beta 30 takes the token out of the target to 1e-4.

The subject's logits follow from its final states, which the stage ``reference`` computes once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start
from palimpsest.settings.types import NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Undial(KeepingObjective):
    """UNDIAL: settings and loss."""

    algorithm: Literal["undial"]
    """Learn the subject's prediction with the true token made unlikely."""
    start: Start = "fresh"
    beta: NonNegative = 10.0
    """What the subject's logit of the true token is lowered by."""

    tunes = (*KeepingObjective.tunes, "beta")

    def forget_draw(self) -> Draw:
        """Forget rows with the subject's states."""
        return Draw(self.rows.forget, ("forget",), reference="states", forgets=True)

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        return mean(rows.lowered_nll(self.beta))
