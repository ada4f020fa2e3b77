"""Drop-in layers: the same output, fewer tensors saved for the backward pass.

They save memory, not time. A layer's class is replaced by a subclass with another ``forward``; its
weights stay where they are. The names of a layer's parts tell which replacement may fit, and a
trial on a few numbers whether it does; a layer that computes anything else stays as it is. Patch
last: torch cannot remove a parametrization from such a class.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.engine.kernels.low_rank import low_rank
from palimpsest.engine.kernels.rms_norm import rms_norm
from palimpsest.engine.kernels.silu_mul import silu_mul


class _SiluMulLayer:
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))
        return out


class _RmsNormLayer:
    """A root mean square norm with a weight."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _LoraLayer:
    """A frozen linear module with plain LoRA adapters; PEFT computes every other kind."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not names or args or kwargs or self.disable_adapters or not _is_plain(self, names):
            out: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return out
        base = self.base_layer
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight
        return low_rank(x, weight, base.bias, *_joined(self, names, x.dtype))


def _joined(layer: Any, names: list[str], kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B of all adapters in one number type; kept while none of them is trained or changed."""
    parts = [(layer.lora_A[name].weight, layer.lora_B[name].weight) for name in names]
    scales = [layer.scaling[name] for name in names]
    weights = [weight for pair in parts for weight in pair]
    keeps = not (torch.compiler.is_compiling() or any(w.requires_grad for w in weights))
    # The storages are held, so that no other tensor can take their place in memory.
    storages = [weight.untyped_storage() for weight in weights] if keeps else []
    state = [(s._cdata, w._version) for s, w in zip(storages, weights, strict=False)]
    key = (kind, scales, state)
    kept = layer.__dict__.get("_kept_adapters")
    if keeps and kept is not None and kept[0] == key:
        found: tuple[Tensor, Tensor] = kept[1]
        return found
    a = torch.cat([a.to(kind) for a, _ in parts])
    b = torch.cat([(b * s).to(kind) for (_, b), s in zip(parts, scales, strict=True)], dim=1)
    if keeps:
        layer.__dict__["_kept_adapters"] = key, (a, b), storages
    return a, b


def _is_plain(layer: Any, names: list[str]) -> bool:
    base = layer.base_layer
    return (
        type(base) in (nn.Linear, Conv1D)
        and not any(parameter.requires_grad for parameter in base.parameters())
        and not layer.merged
        and not any(name in layer.lora_variant for name in names)
        and all(type(layer.lora_dropout[name]) is nn.Identity for name in names)
        and all(layer.lora_B[name].bias is None for name in names)
    )


def keep_less(block: nn.Module) -> None:
    """Let the layers of a block compute with `silu_mul`, `rms_norm` and `low_rank`."""
    for layer in block.modules():
        if isinstance(layer, (_SiluMulLayer, _RmsNormLayer, _LoraLayer)):
            continue
        forward, kind = _replacement(layer), cast("Any", type(layer))
        if forward:
            layer.__class__ = _subclass(forward, kind)


@functools.cache
def _subclass(forward: Any, kind: Any) -> Any:
    # Cached: blocks of the same classes share their compiled code.
    return type(kind.__name__, (forward, kind), {})


def _replacement(layer: Any) -> type | None:
    """The class with the forward pass that `layer` can use."""
    if type(layer) is LoraLinear:
        return _LoraLayer
    parts = [getattr(layer, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(isinstance(part, nn.Module) for part in parts):
        return _SiluMulLayer if _agrees(layer, _SiluMulLayer, layer.up_proj.weight) else None
    if hasattr(layer, "variance_epsilon") and getattr(layer, "weight", None) is not None:
        # Some norms also take a gate.
        one_input = len(inspect.signature(layer.forward).parameters) == 1
        agrees = one_input and _agrees(layer, _RmsNormLayer, layer.weight)
        return _RmsNormLayer if agrees else None
    return None


@torch.no_grad()
def _agrees(layer: Any, replacement: Any, weight: Tensor) -> bool:
    """Whether the replacement's forward pass gives the layer's output to the last bit."""
    if not weight.is_floating_point():  # quantised: the layers below still save what they can
        return False
    x = torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)[None]
    x = torch.cat([x, 1000 * x])  # some architectures clip large values
    try:
        return torch.equal(layer.forward(x), replacement.forward(layer, x))
    except (RuntimeError, TypeError):  # sharded weights, or another signature
        return False
