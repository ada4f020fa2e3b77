"""Root mean square norm that keeps its input and one number per token for the backward pass.

With x a token's state of width n, r = 1 / sqrt(mean x^2 + eps), and g the gradient of the output::

    y = w * x r        dx = r (w g - x r mean(w g * x r))        dw = sum over tokens of g * x r

The form in transformers, written operation by operation, also keeps two fp32 copies of
half-precision states, and its backward pass makes a dozen tensors of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.float32)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.to(torch.float32) * scale
        by_weight = None
        if ctx.needs_input_grad[1]:
            # The forward pass multiplied the weight by the normed states in x's type.
            summed = (outer * normed.to(x.dtype)).flatten(0, -2).sum(0, dtype=torch.float32)
            by_weight = summed.to(weight.dtype)
        inner = (outer * weight).to(torch.float32)
        along = torch.linalg.vecdot(inner, normed)[..., None] / x.shape[-1]
        return inner.addcmul(normed, along, value=-1).mul_(scale).to(x.dtype), by_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm (arXiv:1910.07467), computed in fp32 as transformers does.

    Args:
        x: states [..., n].
        weight: [n].
        eps: added to the mean square.

    Returns:
        weight * x / sqrt(mean x^2 + eps), [..., n]; the norm is rounded to x's type before the
        weight multiplies it.
    """
    return _RmsNorm.apply(x, weight, eps)
