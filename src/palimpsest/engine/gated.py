"""Gated feed-forward layers that keep less for the backward pass.

``silu(gate) * up`` as transformers writes it keeps three tensors of the layer's inner width; two
are enough, because ``silu(gate)`` is cheap to compute again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PARTS = ("gate_proj", "up_proj", "down_proj")
"""Modules of a layer that computes ``down_proj(silu(gate_proj(x)) * up_proj(x))``."""


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(outer * up, gate)
        return by_gate, F.silu(gate).mul_(outer)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of tensors of the same shape (SwiGLU, arXiv:2002.05202)."""
    return _SiluMul.apply(gate, up)


def keep_less(block: nn.Module) -> None:
    """Let the gated layers of a block compute with `silu_mul`.

    Layers are known by the names of their parts. Whether one computes what these names say is
    tried on a few numbers; otherwise it stays as it is.
    """
    for layer in block.modules():
        parts = [getattr(layer, name, None) for name in PARTS]
        if all(isinstance(part, nn.Module) for part in parts):
            made = _forward(*parts)
            if _same(layer.forward, made, layer):
                layer.forward = made


def _forward(gate: Any, up: Any, down: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: down(silu_mul(gate(x), up(x)))


@torch.no_grad()
def _same(one: Callable[..., Any], other: Callable[..., Any], layer: Any) -> bool:
    weight = layer.up_proj.weight
    x = torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)[None]
    try:
        return torch.equal(one(x), other(x))
    except (RuntimeError, TypeError):  # spread weights, another signature
        return False
