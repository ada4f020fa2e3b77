"""A linear map from one model's states to another's, by ridge regression in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties, as shares of the mean square of a state's entry."""

ALWAYS = -1
"""Part of a token that every fit of the cross-validation has."""


@dataclass(frozen=True)
class Moments:
    """Sums over tokens: of products of the inputs, and of inputs and outputs."""

    inputs: Tensor
    outputs: Tensor
    count: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """Add up x [n, width] and y [n, width of outputs]."""
        return cls(x.T @ x, x.T @ y, len(x))

    def without(self, other: Moments) -> Moments:
        """Those of the other tokens."""
        inputs, outputs = self.inputs - other.inputs, self.outputs - other.outputs
        return Moments(inputs, outputs, self.count - other.count)

    def predicted(self, x: Tensor, strength: float) -> Tensor:
        """x (G + strength n I)^-1 C, with G and C the two sums over n tokens."""
        regular = self.inputs.clone()
        regular.diagonal().add_(strength * self.count)
        factor = torch.linalg.cholesky(regular)
        return torch.cholesky_solve(x.T, factor).T @ self.outputs


@dataclass(frozen=True)
class Map:
    """A fitted map.

    Attributes:
        strength: the penalty, of `STRENGTHS`.
    """

    moments: Moments
    strength: float
    centre: tuple[Tensor, Tensor]
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """What the other model's states would be, float64 [n, width]."""
        z = (x.double() - self.centre[0]) / self.scale
        return self.moments.predicted(z, self.strength) + self.centre[1]


def fitted(
    x: Tensor, y: Tensor, part: Tensor, judged: Tensor, cost: Callable[[Tensor, Tensor], float]
) -> Map:
    """The map from x to y with the smallest cost in cross-validation.

    Minimises |y - y0 - z W|^2 / n + strength |W|^2 over W, with z the entries of x less their mean,
    over their standard deviation, and y0 the mean of y.

    Args:
        x: states [n, width].
        y: what is to be predicted at the same tokens, [n, width].
        part: int64 [n], the part in which a token is left out; `ALWAYS`: in none.
        judged: bool [n], tokens that decide; each is of some part.
        cost: of predictions at some tokens: their places in x, int64 [m], and float64 [m, width].

    Raises:
        ValueError: no token decides.
    """
    if not judged.any() or (part[judged] == ALWAYS).any():
        raise ValueError("the strength is chosen on tokens that are left out of some part")
    x, y = x.double(), y.double()
    centre = x.mean(0), y.mean(0)
    scale = x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    z, y = (x - centre[0]) / scale, y - centre[1]
    whole = Moments.of(z, y)
    costs = [0.0] * len(STRENGTHS)
    for one in part[judged].unique().tolist():
        rest = whole.without(Moments.of(z[part == one], y[part == one]))
        at = (judged & (part == one)).nonzero()[:, 0]
        for place, strength in enumerate(STRENGTHS):
            costs[place] += cost(at, rest.predicted(z[at], strength) + centre[1])
    best = min(range(len(STRENGTHS)), key=lambda place: costs[place])
    return Map(whole, STRENGTHS[best], centre, scale)
