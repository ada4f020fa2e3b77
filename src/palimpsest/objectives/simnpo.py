"""SimNPO (arXiv:2410.07163): NPO without a reference; a row's own cost is its brake.

l_b is the mean cost of row b's answer tokens, n_b their number::

    L_f = -(2/beta) mean_b log sigmoid(beta (l_b - delta))
    dL_f = -mean_b 2 sigmoid(-beta (l_b - delta)) dl_b

A row is left alone once its tokens cost about delta + 4/beta nats: with the published beta 4.5 and
delta 0 at one nat a token (a probability of 1/e), where the weight is 0.022. With a beta of 0.1 the
weight is still 0.54 at 10 nats a token: that is gradient ascent under another name.

**The margin has three names.** The paper's gamma stands outside beta, log sigmoid(beta l - gamma):
delta = gamma / beta. The gamma of the authors' code stands inside it: delta = gamma. OpenUnlearning
calls the margin delta, as we do, and its gamma is the weight of this term: ``weights.forget``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.settings.method import Start
from palimpsest.settings.types import Positive, Real

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class SimNpo(KeepingObjective):
    """SimNPO: settings and loss."""

    algorithm: Literal["simnpo"]
    """Ascent on each row until its tokens cost delta + 4/beta nats."""
    start: Start = "fresh"
    beta: Positive = 4.5
    """How soon a row is left alone."""
    delta: Real = 0.0
    """The margin, nats a token (gamma / beta of the paper, gamma of the authors' code)."""

    tunes = (*KeepingObjective.tunes, "beta")

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        from torch.nn.functional import logsigmoid

        return -(2 / self.beta) * logsigmoid(self.beta * (rows.nll() - self.delta)).mean()
