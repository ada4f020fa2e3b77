"""Gradients of the forget and of the retain term, put together in other ways than by their sum.

g_f and g_r are vectors over all trained tensors, with the weights of their terms. m is a running
mean of the retain gradients that begins at 0, m <- mu g_r + (1 - mu) m::

    rectified(g, m) = g - min(<g, m>, 0) / |m|^2 m

    sum        g_f + g_r
    gru        rectified(g_f, m)                                    arXiv:2503.09117
    blur       g_r + (gamma - <g_r, g_f> / |g_f|^2) g_f             arXiv:2506.08164
    symmetric  rectified(g_f, g_r) + rectified(g_r, g_f)

`rectified` is the nearest vector to g that does not point against m; the scale of m has no effect.
blur holds <g, g_f> at gamma |g_f|^2, also where both gradients agree. BLUR's form for RMU,
g_f + alpha (g_r - <g_f, g_r> / |g_f|^2 g_f), is the same with gamma 1, as alpha is the weight of
RMU's retain term.

Products are those of the tensors' own type (fp32), sums are float64. Every process has all trained
tensors and the gradients of all rows, so each finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.engine.sampler import generator
from palimpsest.settings.training import Gradients, Perturb

Vector = Sequence[Tensor]
"""One vector in parts: a tensor for each trained one, in their order."""


@dataclass(frozen=True)
class Apart:
    """Two terms that run in passes of their own.

    Attributes:
        forget: streams of the forget term.
        retain: streams of the retain term.
        gradients: how their gradients become one.
        perturb: where the forget term's gradient is taken; None: at the weights.
    """

    forget: Collection[str]
    retain: Collection[str]
    gradients: Gradients
    perturb: Perturb | None


def dot(one: Vector, other: Vector) -> float:
    """<one, other>."""
    parts = [(a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)]
    return torch.stack(parts).sum().item()


def norm(vector: Vector) -> float:
    """The Euclidean length."""
    return math.sqrt(dot(vector, vector))


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of the angle between two vectors; 0 where one of them has no length."""
    lengths = norm(one) * norm(other)
    return dot(one, other) / lengths if lengths else 0.0


def plus(one: Vector, other: Vector, factor: float = 1.0) -> list[Tensor]:
    """One + factor * other."""
    return [torch.add(a, b, alpha=factor) for a, b in zip(one, other, strict=True)]


def rectified(gradient: Vector, kept: Vector) -> Vector:
    """The nearest vector to `gradient` that does not point against `kept`."""
    inner = dot(gradient, kept)
    return gradient if inner >= 0 else plus(gradient, kept, -inner / dot(kept, kept))


def combined(forget: Vector, retain: Vector, mean: Vector, settings: Gradients) -> Vector:
    """The gradient of a step.

    Args:
        forget: g_f.
        retain: g_r.
        mean: m, with this step's g_r in it; read by gru alone.
        settings: how both are put together.
    """
    if settings.combine == "gru":
        kept = rectified(forget, mean)
        return plus(kept, retain) if settings.add_retain else kept
    if settings.combine == "blur":
        square = dot(forget, forget)
        share = settings.gamma - dot(retain, forget) / square if square else 0.0
        return plus(retain, forget, share)
    if settings.combine == "symmetric":
        return plus(rectified(forget, retain), rectified(retain, forget))
    return plus(forget, retain)


def sharper(
    weights: Mapping[str, Tensor], gradient: Vector, settings: Perturb
) -> dict[str, Tensor]:
    """Trained tensors moved by rho along the gradient, to where the term is higher (SAM).

    Args:
        weights: the trained tensors.
        gradient: the term's gradient at them; without any length nothing moves.
        settings: ``size`` is rho.
    """
    length, rho = norm(gradient), settings.size
    if settings.relative:
        rho *= norm(list(weights.values()))
    moved = plus(list(weights.values()), gradient, rho / length if length else 0.0)
    return dict(zip(weights, moved, strict=True))


def noisy(
    weights: Mapping[str, Tensor], settings: Perturb, seed: int, step: int, sample: int
) -> dict[str, Tensor]:
    """Trained tensors + sigma * standard normal noise, the same in every process.

    Args:
        weights: the trained tensors.
        settings: ``size`` is sigma.
        seed: seed of the run.
        step: number of the step, from 0.
        sample: number of the sample, from 0.
    """
    tensors, sigma = list(weights.values()), settings.size
    if settings.relative:
        sigma *= norm(tensors) / math.sqrt(sum(tensor.numel() for tensor in tensors))
    device = tensors[0].device
    random = generator(seed, "noise", step, sample, device=device)
    noise = [
        torch.randn(tensor.shape, generator=random, dtype=tensor.dtype, device=device)
        for tensor in tensors
    ]
    return dict(zip(weights, plus(tensors, noise, sigma), strict=True))
