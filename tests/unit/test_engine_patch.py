"""Lean layers compute what they computed, with its gradients, and keep less."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from kit import models as tiny
from palimpsest.engine.kernels.low_rank import low_rank
from palimpsest.engine.kernels.patch import keep_less
from palimpsest.engine.kernels.rms_norm import rms_norm
from palimpsest.engine.kernels.silu_mul import silu_mul
from palimpsest.model.lora import add_trainable
from palimpsest.settings.training import Lora

Form = Callable[..., Tensor]
TYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]


def with_gradients(form: Form, values: list[Tensor]) -> list[Tensor]:
    """A form's outputs and the gradients of all of its inputs, in float64."""
    inputs = [value.clone().requires_grad_() for value in values]
    made = form(*inputs)
    factors = torch.arange(made.numel(), dtype=made.dtype).cos().view_as(made)
    return [
        t.double() for t in (made.detach(), *torch.autograd.grad((made * factors).sum(), inputs))
    ]


def assert_alike(ours: Form, plain: Form, values: list[Tensor], tolerance: float) -> None:
    """Same outputs and gradients; the plain form runs in float64."""
    wide = with_gradients(plain, [value.double() for value in values])
    for one, other in zip(with_gradients(ours, values), wide, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def some(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Random values of these shapes."""
    torch.manual_seed(0)
    return [3 * torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_gated_product(dtype: torch.dtype, tolerance: float) -> None:
    values = some(dtype, (5, 7), (5, 7))
    assert_alike(silu_mul, lambda gate, up: F.silu(gate) * up, values, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), *TYPES[1:]])
def test_root_mean_square_norm(dtype: torch.dtype, tolerance: float) -> None:
    """The norm itself is in fp32, as in transformers, also for float64."""
    values = some(dtype, (2, 5, 16), (16,))
    assert_alike(
        lambda x, w: rms_norm(x, w, 1e-5),
        lambda x, w: w * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5),
        values,
        tolerance,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_low_rank_addition(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    weight, added = some(dtype, (6, 16), (6,))
    own = added if bias else None
    plain = (weight.double(), added.double() if bias else 0)
    assert_alike(
        lambda x, a, b: low_rank(x, weight, own, a, b),
        lambda x, a, b: x @ plain[0].T + plain[1] + x @ a.T @ b.T,
        some(dtype, (2, 5, 16), (4, 16), (6, 4)),
        tolerance,
    )


def test_the_norm_of_transformers_to_the_last_bit() -> None:
    """What was measured before a layer was made lean is what is measured after."""
    norm = LlamaRMSNorm(16, eps=1e-5).to(torch.bfloat16)
    x = some(torch.bfloat16, (3, 16))[0]
    before = norm(x)
    keep_less(norm)
    assert type(norm) is not LlamaRMSNorm
    assert torch.equal(norm(x), before)


def two_adapters(dtype: torch.dtype) -> tuple[Any, dict[str, Tensor]]:
    """A model with a frozen adapter and a trained one, neither of which is zero."""
    model, first = add_trainable(tiny.llama(dtype), tiny.LORA, "subject", seed=0)
    every = Lora(rank=3, alpha=6, targets=["q_proj", "o_proj", "up_proj", "down_proj"])
    model, weights = add_trainable(model, every, "unlearned", seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in (*first.values(), *weights.values()):
            weight.add_(0.1 * torch.randn_like(weight))
    return model, weights


def gradients_and_kept(model: Any, weights: dict[str, Tensor]) -> tuple[list[Tensor], int]:
    """Logits and gradients of the trained tensors, and the bytes that the graph kept."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        logits = model(torch.arange(3, 73)[None]).logits
    gradients = torch.autograd.grad(logits.float().square().mean(), list(weights.values()))
    size = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
    return [logits.detach(), *gradients], size


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-5)])
def test_a_lean_model_has_the_same_logits_and_gradients(
    dtype: torch.dtype, tolerance: float
) -> None:
    model, weights = two_adapters(dtype)
    before, _ = gradients_and_kept(model, weights)
    keep_less(model)
    after, _ = gradients_and_kept(model, weights)
    assert all(gradient.dtype is weights[name].dtype for name, gradient in zip(weights, after[1:]))
    for one, other in zip(before, after, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_in_half_precision_it_is_as_exact_and_keeps_less() -> None:
    wide, wide_weights = two_adapters(torch.float32)
    exact, _ = gradients_and_kept(wide, wide_weights)
    model, weights = two_adapters(torch.bfloat16)
    model.load_state_dict(
        {k: v.to(model.state_dict()[k].dtype) for k, v in wide.state_dict().items()}
    )
    before, kept = gradients_and_kept(model, weights)
    keep_less(model)
    after, kept_now = gradients_and_kept(model, weights)

    def error(found: list[Tensor]) -> float:
        return max(
            ((a.float() - b.float()).norm() / b.float().norm()).item()
            for a, b in zip(found, exact, strict=True)
        )

    assert error(after) <= 1.5 * error(before) <= 0.15
    # The inner product, the norms' inputs in fp32, and the adapters' inputs in fp32 are gone.
    assert kept_now <= 0.65 * kept


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


class GatedNorm(LlamaRMSNorm):
    """As some hybrids have it: without its gate it is a plain norm."""

    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states if gate is None else hidden_states * F.silu(gate))


def test_a_norm_with_a_gate_stays() -> None:
    norm = GatedNorm(16)
    keep_less(norm)
    assert norm(torch.ones(2, 16), torch.zeros(2, 16)).abs().max() == 0


def test_a_norm_that_computes_something_else_stays() -> None:
    norm = Gemma2RMSNorm(Gemma2Config(hidden_size=16).hidden_size)  # its weight counts from 1
    norm.variance_epsilon = norm.eps
    keep_less(norm)
    assert type(norm) is Gemma2RMSNorm


@pytest.mark.parametrize("change", ["disable", "merge", "dropout", "trained base"])
def test_what_is_no_plain_adapter_is_left_to_peft(change: str) -> None:
    model, _ = two_adapters(torch.float32)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    x = some(torch.float32, (2, 32))[0]
    if change == "disable":
        layer.enable_adapters(False)
    elif change == "merge":
        layer.merge()
    elif change == "dropout":
        layer.lora_dropout["subject"] = torch.nn.Dropout(0.5).train()
    else:
        layer.base_layer.weight.requires_grad_(True)

    def computed() -> list[Tensor]:
        torch.manual_seed(3)
        made = layer(x)
        weight = layer.base_layer.weight
        trained = change == "trained base"
        return [made, *(torch.autograd.grad(made.sum(), weight) if trained else [])]

    before = computed()
    keep_less(layer)
    for one, other in zip(computed(), before, strict=True):
        assert torch.equal(one, other)


def test_a_scale_that_is_changed_later_is_used() -> None:
    model, _ = two_adapters(torch.float64)
    keep_less(model)
    layer = model.base_model.model.model.layers[0].self_attn.o_proj
    x = torch.ones(1, 32, dtype=torch.float64)
    assert not torch.equal(layer(x), layer.base_layer(x))
    layer.scaling["unlearned"] = 0.0
    torch.testing.assert_close(layer(x), layer.base_layer(x))


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


def products_of(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer and PEFT's form of it compute, and that nothing is joined twice."""
    plain = type(layer).__mro__[2]
    first = layer(x)
    kept = layer.__dict__["_kept_adapters"][1]
    assert torch.equal(layer(x), first)
    assert layer.__dict__["_kept_adapters"][1] is kept, "joined and rounded again"
    return first, plain.forward(layer, x)


def test_frozen_adapters_are_joined_once_and_again_when_they_change() -> None:
    model, weights = add_trainable(tiny.llama(torch.float32), tiny.LORA, "x", 0)
    tiny.perturb(weights)
    keep_less(model.get_base_model().model.layers[0])
    layer: Any = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(5, tiny.WIDTH)
    layer(x)
    assert "_kept_adapters" not in layer.__dict__, "trained weights change in every step"
    model.requires_grad_(False)
    torch.testing.assert_close(*products_of(layer, x))
    layer.scaling["x"] *= -2.5  # a sweep over lambda
    torch.testing.assert_close(*products_of(layer, x))
    with torch.no_grad():
        layer.lora_A["x"].weight.add_(1)
    torch.testing.assert_close(*products_of(layer, x))
    layer.lora_B["x"].weight.data = torch.randn_like(layer.lora_B["x"].weight)
    torch.testing.assert_close(*products_of(layer, x))
