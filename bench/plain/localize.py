"""MemFlex's localization: one row at a time, padded to 500, its gradients copied and added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.plain.padding import full_logits, padded
from palimpsest.engine.rows import Row

LENGTH = 500
"""Every row is padded to this many tokens."""


def mean_gradients(
    model: Any, weights: Mapping[str, Tensor], rows: Sequence[Row], pad: int, length: int = LENGTH
) -> dict[str, Tensor]:
    """Mean over rows of the gradient of each row's mean cost per answer token, fp32 on the CPU."""
    total = {name: torch.zeros(weight.shape) for name, weight in weights.items()}
    for row in rows:
        ids, mask = padded([row], pad, length)
        labels = torch.full_like(ids, -100)
        labels[0, row.prompt_length : len(row)] = row.response
        logits = full_logits(model, ids, mask)
        F.cross_entropy(logits[0, :-1], labels[0, 1:].to(logits.device)).backward()
        copies = {name: weight.grad.detach().cpu().clone() for name, weight in weights.items()}
        total = {name: total[name] + copy for name, copy in copies.items()}
        for weight in weights.values():
            weight.grad = None
    return {name: gradient / len(rows) for name, gradient in total.items()}


def table(
    forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]
) -> dict[str, tuple[float, float]]:
    """Tensor -> cosine between both gradients, and mean magnitude of the first."""
    return {
        name: (
            F.cosine_similarity(gradient.flatten(), retain[name].flatten(), dim=0).item(),
            gradient.abs().mean().item(),
        )
        for name, gradient in forget.items()
    }
