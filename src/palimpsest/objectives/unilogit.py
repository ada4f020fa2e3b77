"""Unilogit (arXiv:2505.06027): learn the own prediction with the true token at 1/V.

With q_t the prediction of target t over V tokens, N tokens of the batch, and a target u_t that
carries no gradient::

    u_t(y_t) = 1/V,   u_t(v) = q_t(v) (1 - 1/V) / (1 - q_t(y_t)) for v != y_t
    L_f = (1/N) sum_t -sum_v u_t(v) log q_t(v)

The slope by the logits is q - u, which is 0 once q_t(y_t) is 1/V. The target follows from the
current model, so nothing of the subject's is needed. The paper's direction of the divergence and
its settings are not known to us; this is the forward one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean
from palimpsest.settings.method import Start

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Unilogit(KeepingObjective):
    """Unilogit: settings and loss."""

    algorithm: Literal["unilogit"]
    """Learn the own prediction with the true token as likely as a blind guess."""
    start: Start = "fresh"

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        return mean(rows.uniform_label())
