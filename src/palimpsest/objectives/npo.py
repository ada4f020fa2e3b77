"""Negative preference optimization (NPO, arXiv:2404.05868): ascent with a brake for each row.

s_b is the cost of row b's whole answer under the trained model, the sum over its n_b tokens, and
s0_b the same under the subject::

    per "row":    L_f = -(2/beta) mean_b log sigmoid(beta (s_b - s0_b))
    per "token":  the same with the means s_b / n_b and s0_b / n_b
    dL_f = -mean_b W_b ds_b,   W_b = 2 sigmoid(-beta (s_b - s0_b))

W_b is 1 before the first step and falls to 0 as the row's cost rises by a few 1/beta. A sum over
tokens rises sooner than their mean: at beta 0.1 a text of 2,048 tokens is left alone (W_b = 0.03)
once its tokens cost 0.02 nats more, while an answer of 40 tokens keeps W_b = 0.24 at 0.5 nats more.
So NPO per row on plain texts stops almost at once; ``per: token`` brakes all lengths alike.

The subject's costs are numbers, computed once, so a step costs what one of gradient ascent does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start
from palimpsest.settings.types import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Npo(KeepingObjective):
    """NPO: settings and loss."""

    algorithm: Literal["npo"]
    """Ascent on each row until its cost has risen by a few 1/beta."""
    start: Start = "fresh"
    beta: Positive = 0.1
    """How soon a row is left alone."""
    per: Literal["row", "token"] = "row"
    """What is compared of a row: the cost of its whole answer, or that of a token (the mean)."""

    tunes = (*KeepingObjective.tunes, "beta")

    def forget_draw(self) -> Draw:
        """Forget rows with the subject's costs."""
        return Draw(self.rows.forget, ("forget",), reference="costs", forgets=True)

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        from torch.nn.functional import logsigmoid

        rises = rows.token_nll() - rows.reference_costs()
        rise = rows.row_sums(rises) if self.per == "row" else rows.row_means(rises)
        return -(2 / self.beta) * logsigmoid(self.beta * rise).mean()
