"""SimNPO, DPO against refusals and UNDIAL: full logits, a second model in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.plain.npo import sequence_costs
from bench.plain.padding import answer_costs, full_logits, padded
from palimpsest.engine.rows import Row


def kept(model: Any, retain: Sequence[Row], pad: int) -> Tensor:
    """Mean cost of the retain tokens."""
    ids, mask = padded(retain, pad)
    return torch.cat(answer_costs(full_logits(model, ids, mask), ids, retain)).mean()


def simnpo(
    model: Any, forget: Sequence[Row], retain: Sequence[Row], beta: float, delta: float, pad: int
) -> dict[str, Tensor]:
    """``2/beta mean softplus(-beta (mean cost of a row - delta))``, and the retain term."""
    ids, mask = padded(forget, pad)
    costs = torch.stack(
        [c.mean() for c in answer_costs(full_logits(model, ids, mask), ids, forget)]
    )
    return {
        "forget": 2 / beta * F.softplus(-beta * (costs - delta)).mean(),
        "retain": kept(model, retain, pad),
    }


def dpo(
    model: Any,
    reference: Any,
    forget: Sequence[Row],
    wanted: Sequence[Row],
    retain: Sequence[Row],
    beta: float,
    pad: int,
) -> dict[str, Tensor]:
    """``2/beta mean softplus(-beta h)``, h the rise of the lost answer less that of the wanted."""
    with torch.no_grad():
        before = sequence_costs(reference, forget, pad) - sequence_costs(reference, wanted, pad)
    now = sequence_costs(model, forget, pad) - sequence_costs(model, wanted, pad)
    return {
        "forget": 2 / beta * F.softplus(-beta * (now - before)).mean(),
        "retain": kept(model, retain, pad),
    }


def undial(model: Any, reference: Any, forget: Sequence[Row], beta: float, pad: int) -> Tensor:
    """Cross-entropy to the reference's distribution, the logit of the true token lowered."""
    ids, mask = padded(forget, pad)
    with torch.no_grad():
        before = full_logits(reference, ids, mask)
    now, costs = full_logits(model, ids, mask), []
    for i, row in enumerate(forget):
        places = slice(row.prompt_length - 1, len(row) - 1)
        labels = ids[i, row.prompt_length : len(row), None].to(now.device)
        lowered = before[i, places].scatter_add(
            -1, labels, torch.full(labels.shape, -beta, dtype=before.dtype, device=before.device)
        )
        costs.append(-(lowered.softmax(-1) * now[i, places].log_softmax(-1)).sum(-1))
    return torch.cat(costs).mean()
