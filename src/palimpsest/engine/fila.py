"""FILA: an adapter that begins where the forget rows matter most (LoKU, arXiv:2408.06621).

For each matrix W [outputs, inputs] that gets an adapter, with F the mean over rows of the squared
gradient of a row's mean cost::

    I     = F_forget / (F_retain + 1e-5 mean F_retain), brought to the mean 1
    rho_i = sqrt(sum_j I_ij)
    B A   = diag(1 / (rho + 1e-5)) SVD_k(diag(rho) W) / s,    s = alpha / rank

The model is to be the subject when training begins. The released code subtracts s B A from W, in
bf16, so that it is not, and its adapter belongs to no model that anybody else has. Here W stays as
it is, and -s B A is a second adapter in fp32, which is not trained. The released 1e-5 is absolute
and dwarfs the squared gradients of a trained model; here it is relative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from palimpsest.engine import ranks
from palimpsest.engine.body import Body
from palimpsest.engine.kernels.head import nll
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.model.lora import activate
from palimpsest.model.trainable import RESIDUAL, Trainable

SMALL = 1e-5
"""Added to what something is divided by, of the mean 1."""


def initialise(
    trainable: Trainable, body: Body, forget: Sequence[Row], retain: Sequence[Row]
) -> None:
    """Give a fresh adapter FILA's first values, and the model the adapter that cancels them.

    If several processes train, the first one computes them for all: a singular vector has no sign
    of its own, so two processes might find it with opposite ones.

    Args:
        trainable: the model with the fresh adapter.
        body: the same model.
        forget: rows on which a large gradient counts for a weight.
        retain: rows on which it counts against it.

    Raises:
        UserError: the weights are quantised, or spread over processes.
    """
    model, name = trainable.model, str(trainable.adapter)
    layers = {n: m for n, m in model.named_modules() if name in getattr(m, "lora_A", {})}
    weights = {n: _weight(layer.get_base_layer()) for n, layer in layers.items()}
    if ranks.current().sharded or not all(w.is_floating_point() for w in weights.values()):
        raise UserError(
            "training.lora.init: fila needs the gradients of whole, unquantised weights; use a "
            "base without quantize, and parallel: ddp"
        )
    if ranks.current().rank == 0:
        _compute(layers, name, squares(body, weights, forget), squares(body, weights, retain))
    ranks.send_from_first(weight.data for weight in trainable.weights.values())
    model.add_adapter(RESIDUAL, model.peft_config[name])
    for layer in layers.values():
        for matrices in (layer.lora_A, layer.lora_B):  # each adapter has values of its own
            matrices[RESIDUAL].weight.data = matrices[name].weight.data.clone()
        layer.scaling[RESIDUAL] = -layer.scaling[name]
    activate(model)
    for weight in trainable.weights.values():
        weight.requires_grad_(True)


@torch.no_grad()
def _compute(
    layers: Mapping[str, Any], name: str, found: dict[str, Tensor], against: dict[str, Tensor]
) -> None:
    """Give the adapter `name` of each layer its values; empties the squared gradients."""
    for n, layer in layers.items():
        importance = found.pop(n) / (against[n] + SMALL * against.pop(n).mean())
        if layer.fan_in_fan_out:
            importance = importance.T
        rank, scale = layer.r[name], layer.scaling[name]
        a, b = factors(_whole(layer, name), importance / importance.mean(), rank, scale)
        layer.lora_A[name].weight.copy_(a)
        layer.lora_B[name].weight.copy_(b)


def squares(body: Body, weights: Mapping[str, Tensor], rows: Sequence[Row]) -> dict[str, Tensor]:
    """Mean over rows of the squared gradient of a row's mean cost, at least fp32.

    Like the weights, and computed in this process alone.
    """
    total = {
        name: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
        for name, w in weights.items()
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    for row in rows:
        (hidden,) = body.hidden([row])
        states = hidden[row.prompt_length - 1 : len(row) - 1]
        cost = nll(states, row.targets.to(states.device), body.head).mean()
        gradients = torch.autograd.grad(cost, list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient.to(total[name]).square() / len(rows)
    for weight in weights.values():
        weight.requires_grad_(False)
    return total


@torch.no_grad()
def factors(weight: Tensor, importance: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A [rank, inputs] and B [outputs, rank], whose product is FILA's, at least fp32.

    Ranks beyond those of the matrix are 0.

    Args:
        weight: [outputs, inputs].
        importance: I, of the same shape.
        rank: k.
        scale: s.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    rho = importance.to(wide).sum(1).sqrt()
    u, s, vt = torch.linalg.svd(rho[:, None] * weight.to(wide), full_matrices=False)
    kept = min(rank, len(s))
    a, b = (
        weight.new_zeros(rank, weight.shape[1], dtype=wide),
        weight.new_zeros(weight.shape[0], rank, dtype=wide),
    )
    root = s[:kept].sqrt()
    a[:kept] = root[:, None] * vt[:kept]
    b[:, :kept] = u[:, :kept] * root / (scale * (rho + SMALL))[:, None]
    return a, b


def _weight(base: nn.Module) -> Tensor:
    """The frozen tensor of a linear module, under the differences that a subject adds to it."""
    if parametrize.is_parametrized(base, "weight"):
        return base.parametrizations["weight"].original  # type: ignore[index,union-attr]
    return base.weight  # type: ignore[return-value]


@torch.no_grad()
def _whole(layer: Any, fresh: str) -> Tensor:
    """The matrix that the subject multiplies by, [outputs, inputs], at least fp32."""
    weight = layer.get_base_layer().weight
    whole = weight.T if layer.fan_in_fan_out else weight
    whole = whole.to(torch.promote_types(weight.dtype, torch.float32))
    for name in layer.lora_A:
        if name not in (fresh, RESIDUAL):
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            whole = whole + layer.scaling[name] * (b.to(whole) @ a.to(whole))
    return whole
