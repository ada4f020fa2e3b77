"""Gated layers keep two tensors of their inner width, and compute what they computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny_models as tiny
from palimpsest.engine.gated import keep_less, silu_mul


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_value_and_gradients_are_those_of_the_plain_form(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    found = []
    values = [3 * torch.randn(5, 7, dtype=torch.float64).to(dtype) for _ in range(2)]
    for form in (silu_mul, lambda gate, up: F.silu(gate) * up):
        gate, up = (value.clone().requires_grad_() for value in values)
        made = form(gate, up)
        made.square().sum().backward()
        found.append([made.detach(), gate.grad, up.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradients_and_kept(model: Any, weights: dict[str, torch.Tensor]) -> tuple[list[Any], int]:
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        logits = model(torch.arange(3, 23)[None]).logits
    logits.square().mean().backward()
    return [weight.grad for weight in weights.values()], sum(kept.values())


def test_a_model_keeps_less_for_the_same_gradients() -> None:
    model, weights = tiny.with_lora(tiny.llama())
    before, kept = gradients_and_kept(model, weights)
    for weight in weights.values():
        weight.grad = None
    keep_less(model)
    after, kept_now = gradients_and_kept(model, weights)
    assert kept - kept_now >= tiny.LAYERS * 20 * 48 * 8
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_layers_that_compute_something_else_stay() -> None:
    model = tiny.llama()
    layers = [layer.mlp for layer in model.model.layers]
    layers[0].act_fn = torch.nn.GELU()
    layers[1].forward = lambda x: 2 * layers[1].down_proj(x[..., :1].expand(*x.shape[:-1], 48))
    layers[2].act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Hardtanh(-10, 10))
    kind = type(layers[0])
    keep_less(model)
    assert [type(layer) is kind for layer in layers] == [True, True, True, False]
    assert isinstance(layers[3], kind)


def test_a_part_that_is_replaced_later_is_used_and_a_copy_has_its_own() -> None:
    model = tiny.llama()
    layer, x = model.model.layers[0].mlp, torch.ones(1, 32, dtype=torch.float64)
    keep_less(layer)
    keep_less(layer)
    twin = copy.deepcopy(layer)
    before = layer(x)
    layer.gate_proj = torch.nn.Linear(32, 48, dtype=torch.float64)
    assert not torch.equal(layer(x), before)
    assert torch.equal(twin(x), before)
