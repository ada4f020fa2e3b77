"""NPO (arXiv:2404.05868) as an objective outside the catalog.

With S the cost of a whole answer and S_ref the same under the untrained model::

    L = -2/beta mean log sigmoid(beta (S - S_ref)) + mean_t -log q(y_t | y_<t) on retain rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.objectives.base import Objective
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw


class Npo(Objective):
    """NPO with a retain term; `loss` takes the costs of `sequence_costs_once` as `fixed`."""

    algorithm: Literal["npo"] = "npo"
    beta: float = 0.1

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {
            "forget": Draw(self.rows.forget, ("forget",)),
            "retain": Draw(self.rows.retain, ("retain",)),
        }

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of one step."""
        return {
            "forget": forget_term(streams["forget"], fixed, self.beta),
            "retain": mean(streams["retain"].token_nll()),
        }


def forget_term(rows: Stream, before: Mapping[str, Tensor], beta: float) -> Tensor:
    """``-2/beta mean log sigmoid(beta (S - S_ref))``; `before` is row id -> S_ref, nats."""
    costs = rows.nll()
    counts = costs.new_tensor([len(row.response) for row in rows.rows])
    reference_costs = torch.stack([before[row.id] for row in rows.rows]).to(costs)
    return -2 / beta * F.logsigmoid(beta * (costs * counts - reference_costs)).mean()


@torch.no_grad()
def sequence_costs_once(body: Body, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Row id -> cost of its whole answer under the untrained model, nats."""
    costs = {}
    for row in rows:
        stream = Stream([row], body.hidden([row]), body.head)
        costs[row.id] = stream.nll()[0] * len(row.response)
    return costs
