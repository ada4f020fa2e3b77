"""A linear map from one model's states to another's, by ridge regression in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties, as shares of the mean square of a state's entry."""

ALWAYS = -1
"""Mark of a token that is in every training set of the cross-validation."""


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


def fitted(x: Tensor, y: Tensor, part: Tensor, judged: Tensor) -> Map:
    """The map from x to y with the smallest error in cross-validation.

    Minimises |y - y0 - (z W)|^2 / n + strength |W|^2 over W, with z the entries of x less their
    mean, over their standard deviation, and y0 the mean of y.

    Args:
        x: states [n, width].
        y: states of the other model at the same tokens, [n, width].
        part: int64 [n], the fold in which a token is left out; `ALWAYS`: in none.
        judged: bool [n], tokens whose squared error decides; of some fold.

    Raises:
        ValueError: no token decides.
    """
    if not judged.any() or (part[judged] == ALWAYS).any():
        raise ValueError("the strength is chosen on tokens of some fold")
    x, y = x.double(), y.double()
    centre = x.mean(0), y.mean(0)
    scale = x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    z, y = (x - centre[0]) / scale, y - centre[1]
    whole = Moments.of(z, y)
    errors = [0.0] * len(STRENGTHS)
    for fold in part[judged].unique().tolist():
        rest = whole.without(Moments.of(z[part == fold], y[part == fold]))
        at = judged & (part == fold)
        for place, strength in enumerate(STRENGTHS):
            error = (rest.predicted(z[at], strength) - y[at]).square().sum()
            errors[place] += error.item()
    best = min(range(len(STRENGTHS)), key=lambda place: errors[place])
    return Map(whole, STRENGTHS[best], centre, scale)
