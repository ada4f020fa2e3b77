"""Layers that compute what they computed and keep less for the backward pass.

A layer gets another class, made of its own and one of those below; its weights stay where they
are. What kind a layer is shows in the names of its parts, and whether it computes what these names
say is tried on a few numbers; otherwise it stays as it is. All this comes last: torch's
parametrizations cannot be removed from such a class.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from palimpsest.engine.gated import silu_mul
from palimpsest.engine.low_rank import low_rank
from palimpsest.engine.norms import rms_norm


class _Gated:
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``; the parts are looked up when it runs."""

    def forward(self: Any, x: Tensor) -> Tensor:
        made: Tensor = self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))
        return made


class _Normed:
    """A root mean square norm with a weight."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _Adapted:
    """A frozen linear module with plain LoRA adapters; with anything else PEFT computes."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not names or args or kwargs or self.disable_adapters or not _plain(self, names):
            made: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return made
        base, kind = self.base_layer, x.dtype
        a = torch.cat([self.lora_A[name].weight.to(kind) for name in names])
        b = torch.cat(
            [(self.lora_B[name].weight * self.scaling[name]).to(kind) for name in names], dim=1
        )
        return low_rank(x, base.weight, base.bias, a, b)


def _plain(layer: Any, names: list[str]) -> bool:
    base = layer.base_layer
    return (
        type(base) is nn.Linear
        and not any(parameter.requires_grad for parameter in base.parameters())
        and not layer.merged
        and not any(name in layer.lora_variant for name in names)
        and all(type(layer.lora_dropout[name]) is nn.Identity for name in names)
        and all(layer.lora_B[name].bias is None for name in names)
    )


def keep_less(block: nn.Module) -> None:
    """Let the layers of a block compute with `silu_mul`, `rms_norm` and `low_rank`."""
    for layer in block.modules():
        if isinstance(layer, (_Gated, _Normed, _Adapted)):
            continue
        lean, kind = _lean(layer), cast("Any", type(layer))
        if lean:
            layer.__class__ = _mixed(lean, kind)


@functools.cache
def _mixed(lean: Any, kind: Any) -> Any:
    # One for all blocks: code compiled for a block serves those of the same classes.
    return type(kind.__name__, (lean, kind), {})


def _lean(layer: Any) -> type | None:
    if type(layer) is LoraLinear:
        return _Adapted
    parts = [getattr(layer, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(isinstance(part, nn.Module) for part in parts):
        return _Gated if _same(layer, _Gated, layer.up_proj.weight) else None
    if hasattr(layer, "variance_epsilon") and getattr(layer, "weight", None) is not None:
        # Some norms take a gate, too.
        alone = len(inspect.signature(layer.forward).parameters) == 1
        return _Normed if alone and _same(layer, _Normed, layer.weight) else None
    return None


@torch.no_grad()
def _same(layer: Any, lean: Any, weight: Tensor) -> bool:
    x = torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)[None]
    x = torch.cat([x, 1000 * x])  # some architectures limit what is large
    try:
        return torch.equal(layer.forward(x), lean.forward(layer, x))
    except (RuntimeError, TypeError):  # spread weights, another signature
        return False
