"""A frozen matrix with low-rank additions, computed in the type of its input.

PEFT multiplies a half-precision input by adapters in fp32: it converts (and keeps) the input once
per adapter, and these products run at the speed of fp32. Here all adapters of a module are
concatenated and rounded to the input's type for the product, as in mixed precision; the trained
tensors stay fp32::

    y = W x + B (A x)      A [r, in] of all adapters, B [out, r] with their scales
    dA = (B' g)' x         dB = g' (A x)         dx = W' g + A' (B' g)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        rows = x.flatten(0, -2)
        inner = rows @ a.T
        ctx.save_for_backward(x, weight, a, b, inner)
        outputs = F.linear(rows, weight, bias).addmm_(inner, b.T)
        return outputs.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        g = outer.flatten(0, -2)
        by_inner = g @ b
        by_x = by_a = by_b = None
        if ctx.needs_input_grad[0]:
            by_x = (g @ weight).addmm_(by_inner, a).view(x.shape)
        if ctx.needs_input_grad[3]:
            by_a = by_inner.T @ x.flatten(0, -2)
        if ctx.needs_input_grad[4]:
            by_b = g.T @ inner
        return by_x, None, None, by_a, by_b


def low_rank(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """W x + bias + B (A x) (LoRA, arXiv:2106.09685); W and the bias get no gradient.

    Args:
        x: [..., inputs].
        weight: W [outputs, inputs], frozen, of x's type.
        bias: [outputs] or None, frozen.
        a: A [r, inputs], of x's type.
        b: B [outputs, r] with its scale, of x's type.
    """
    return _LowRank.apply(x, weight, bias, a, b)
