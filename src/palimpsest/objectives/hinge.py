"""Inverted hinge (IHL, of LoKU, arXiv:2408.06621): let the likeliest rival pass the true token.

With q_t the prediction of target t, N tokens of the batch::

    L_f = (1/N) sum_t max(0, 1 + q_t(y_t) - max_{v != y_t} q_t(v))

It is in [0, 2]. The slope by the logits is q_y (1_y - q) - q_r (1_r - q) with the rival r: nothing
on a token that is certain, nothing on one that is forgotten. LoKU also begins with an adapter of
its own (FILA): ``training.lora.init: fila``.
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


class Hinge(KeepingObjective):
    """Inverted hinge: settings and loss."""

    algorithm: Literal["ihl"]
    """Let the likeliest other token pass the true one."""
    start: Start = "fresh"

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        return mean(rows.hinge())
