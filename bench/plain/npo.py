"""NPO with a retain term (arXiv:2404.05868): a deep copy answers as the reference in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.plain.padding import answer_costs, full_logits, padded
from palimpsest.engine.rows import Row


def step(
    model: Any, reference: Any, forget: Sequence[Row], retain: Sequence[Row], beta: float, pad: int
) -> dict[str, Tensor]:
    """Both terms of a step.

    ``-2/beta mean log sigmoid(beta (S - S_ref))`` with S the cost of a whole answer, and the mean
    cost of the retain tokens.
    """
    with torch.no_grad():
        before = sequence_costs(reference, forget, pad)
    now = sequence_costs(model, forget, pad)
    ids, mask = padded(retain, pad)
    retain_costs = answer_costs(full_logits(model, ids, mask), ids, retain)
    return {
        "forget": -2 / beta * F.logsigmoid(beta * (now - before)).mean(),
        "retain": torch.cat(retain_costs).mean(),
    }


def sequence_costs(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Cost of each row's whole answer, nats, [rows]."""
    ids, mask = padded(rows, pad)
    return torch.stack([c.sum() for c in answer_costs(full_logits(model, ids, mask), ids, rows)])
