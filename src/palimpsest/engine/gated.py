"""Gated feed-forward layers that keep less for the backward pass.

``silu(gate) * up`` as transformers writes it keeps three tensors of the layer's inner width; two
are enough, because ``silu(gate)`` is cheap to compute again.
"""

from __future__ import annotations

import functools
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


class _KeepsLess:
    """What the class of a gated layer is mixed with; its parts are looked up when it runs."""

    def forward(self: Any, x: Tensor) -> Tensor:
        made: Tensor = self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))
        return made


def keep_less(block: nn.Module) -> None:
    """Let the gated layers of a block compute with `silu_mul`.

    Layers are known by the names of their parts. Whether one computes what these names say is
    tried on a few numbers; otherwise it stays as it is.
    """
    for layer in block.modules():
        if isinstance(layer, _KeepsLess):
            continue
        parts = [getattr(layer, name, None) for name in PARTS]
        if all(isinstance(part, nn.Module) for part in parts) and _same(layer):
            kind: Any = type(layer)
            layer.__class__ = _keeping_less(kind)


@functools.cache
def _keeping_less(kind: Any) -> Any:
    # One for all blocks: code compiled for a block serves those of the same classes.
    return type(kind.__name__, (_KeepsLess, kind), {})


@torch.no_grad()
def _same(layer: Any) -> bool:
    weight = layer.up_proj.weight
    x = torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)[None]
    x = torch.cat([x, 1000 * x])  # some architectures limit what is large
    try:
        return torch.equal(layer.forward(x), _KeepsLess.forward(layer, x))
    except (RuntimeError, TypeError):  # spread weights, another signature
        return False
