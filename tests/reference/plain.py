"""SKU's stage-1 loss written the long way.

Two complete models, full logits at every position, rows padded to one length with an attention
mask, one forward pass for each term, sums over explicit masks. Slow, and easy to check by eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.plain.padding import padded
from palimpsest.engine.rows import Row

PAD = 2


def log_probs(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """log q(v | x_<=t) for every position and token, [rows, length, vocabulary]."""
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits - logits.logsumexp(-1, keepdim=True)


def answer_loss(model: Any, rows: Sequence[Row], length: int) -> Tensor:
    """Mean over rows of the mean of -log q over exactly the response tokens."""
    log_q = log_probs(model, *padded(rows, PAD, length))
    total = torch.zeros((), dtype=log_q.dtype)
    for i, row in enumerate(rows):
        per_row = torch.zeros((), dtype=log_q.dtype)
        for position in range(row.prompt_length, len(row)):
            per_row = per_row - log_q[i, position - 1, row.ids[position]]
        total = total + per_row / len(row.response)
    return total / len(rows)


def divergence(
    reference: Any, model: Any, rows: Sequence[Row], length: int, positions: str
) -> Tensor:
    """Mean of KL(p || q) over the predicting positions of all rows, p from a second model."""
    ids, mask = padded(rows, PAD, length)
    with torch.no_grad():
        log_p = log_probs(reference, ids, mask)
    log_q = log_probs(model, ids, mask)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    counts = torch.zeros_like(kl)
    for i, row in enumerate(rows):
        counts[i, 0 if positions == "all" else row.prompt_length - 1 : len(row) - 1] = 1
    return (kl * counts).sum() / counts.sum()


def terms(
    model: Any,
    reference: Any,
    drawn: dict[str, list[Row]],
    *,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    sign: int = 1,
    cap: float = 2.0,
    positions: str = "all",
    length: int = 40,
) -> dict[str, Tensor]:
    """The three weighted terms of SKU, stage 1; each from its own forward pass."""
    forget, random, preserve = weights
    kl = divergence(reference, model, drawn["retain"], length, positions)
    away = -kl if kl.item() < cap else torch.full_like(kl, -cap)
    bounded = away if sign < 0 else sign * kl
    return {
        "forget": forget * answer_loss(model, drawn["forget"], length),
        "random": random * answer_loss(model, drawn["random"], length),
        "preserve": preserve * bounded,
    }
