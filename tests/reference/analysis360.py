"""Analysis360's unlearning losses as its public code computes them, defects included.

Written from a description of what that code does (LLM360/Analysis360 at efe4ec3), in our own
words, to show how ours differs; no line of it is theirs. `docs/differences.md` lists the defects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOWEST = -1e10
"""What the released code writes over the label's logit."""


def max_entropy(logits: Tensor) -> Tensor:
    """Minus the mean entropy over every position of logits [positions, vocabulary], pads too."""
    p = logits.softmax(-1)
    return (p * p.log()).sum(-1).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cost of the shifted labels that are not ignored (-100)."""
    total, count = logits.new_zeros(()), 0
    for t in range(len(labels) - 1):
        if labels[t + 1] != -100:
            total = total - logits[t].log_softmax(-1)[labels[t + 1]]
            count += 1
    return total / count


def min_posterior(logits: Tensor, labels: Tensor, threshold: float = -15.0) -> Tensor:
    """-mean log(1 - p) through a masked copy of the logits; not a number without a valid label."""
    shifted, targets = logits[:-1], labels[1:]
    valid = targets != -100
    at = targets.clamp(min=0)[:, None]
    one_hot = torch.zeros_like(shifted).scatter(-1, at, 1.0)
    others = (shifted * (1 - one_hot) + LOWEST * one_hot).logsumexp(-1)
    total = shifted.logsumexp(-1)
    known = shifted.gather(-1, at)[:, 0] - total >= threshold
    return -((others - total) * known * valid).sum() / valid.sum()


def random_matching(states: Sequence[Tensor], table: Tensor, ids: Tensor) -> Tensor:
    """mean_l mean_t (1 - |cos|), one gathered copy of the table for each level, pads included."""
    levels = []
    for state in states:
        target = table[ids]
        norms = state.norm(dim=-1) * target.norm(dim=-1)
        levels.append((1 - ((state * target).sum(-1) / norms).abs()).mean())
    return torch.stack(levels).mean()


def rmu(state: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over every position and entry; the shapes are not compared."""
    return ((state - target) ** 2).mean()


def optimizer_steps(micro_batches: int, accumulation: int) -> tuple[int, int]:
    """Optimiser steps that happen, and micro-batches at the end that are computed in vain."""
    return micro_batches // accumulation, micro_batches % accumulation


def accumulated(gradients: Sequence[Tensor], accumulation: int) -> Tensor:
    """The gradient of one optimiser step: divided by the accumulation twice."""
    return sum(g / accumulation / accumulation for g in gradients)  # type: ignore[return-value]


def schedule_free(
    start: Tensor,
    gradients: Sequence[Tensor],
    rate: float,
    *,
    warmup: int = 0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Schedule-free AdamW, version 1.2.7: y (which the code saves) and x (which it should)."""
    b1, b2 = betas
    y, z, x, v = start.clone(), start.clone(), start.clone(), torch.zeros_like(start)
    largest, total = 0.0, 0.0
    for k, g in enumerate(gradients):
        b = 1 - b2 ** (k + 1)
        warm = min(1.0, (k + 1) / warmup) if warmup else 1.0
        eta = rate * warm * math.sqrt(b)
        largest = max(largest, eta)
        w = largest**2
        total += w
        v = b2 * v + (1 - b2) * g * g
        z = z - eta * g / (v.sqrt() + eps)
        x = (1 - w / total) * x + w / total * z  # the definition; the code never holds x
        y = b1 * x + (1 - b1) * z
    return y, x
