"""Adapters as files and arithmetic on them: negation of a task vector, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import (
    FILES,
    Update,
    add,
    read_adapter,
    updates_of,
    write_adapter,
)
from palimpsest.model.lora import activate, add_trainable
from palimpsest.settings.training import Lora
from reference import released

SUBJECT = Lora(rank=8, alpha=4, targets=["q_proj", "v_proj", "down_proj"])
ACQUIRED = Lora(rank=4, alpha=6, targets=["q_proj", "o_proj"], first_layer=2)
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])


def delta(update: Update) -> Tensor:
    return update.scale * update.b.double() @ update.a.double()


def products(updates: dict[str, Update]) -> dict[str, Tensor]:
    return {name: delta(update) for name, update in updates.items()}


def stacked(first: Lora = SUBJECT, second: Lora = ACQUIRED) -> Any:
    """A model with two adapters that differ in rank, scale, targets and blocks."""
    model, one = add_trainable(tiny.llama(), first, "subject", 0)
    tiny.perturb(one, seed=1)
    model, two = add_trainable(model, second, "acquired", 1)
    tiny.perturb(two, seed=2)
    for weight in (*one.values(), *two.values()):
        weight.data = weight.data.double()
    return activate(model)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.25, 1.0, 1.5])
def test_negation_is_the_base_plus_subject_less_lambda_times_the_task_vector(scale: float) -> None:
    model = stacked()
    subject, acquired = updates_of(model, "subject"), updates_of(model, "acquired")
    assert set(subject) != set(acquired)
    assert {u.a.shape[0] for u in subject.values()} != {u.a.shape[0] for u in acquired.values()}
    expected = products(subject)
    for name, vector in products(acquired).items():
        expected[name] = expected.get(name, torch.zeros_like(vector)) - scale * vector
    assert_same(products(add(subject, acquired, -scale)), expected)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_negation_equals_two_theta_o_less_theta_m(scale: float) -> None:
    """theta_o - lambda (theta_m - theta_o) on full weights, in float64."""
    base = dict(tiny.llama().named_parameters())
    model = stacked()
    subject, acquired = updates_of(model, "subject"), updates_of(model, "acquired")
    theta_o, theta_m = ({n: w.clone() for n, w in base.items()} for _ in range(2))
    for name, update in subject.items():
        theta_o[f"{name}.weight"] += delta(update)
        theta_m[f"{name}.weight"] += delta(update)
    for name, update in acquired.items():
        theta_m[f"{name}.weight"] += delta(update)
    ours = {n: w.clone() for n, w in base.items()}
    for name, update in add(subject, acquired, -scale).items():
        ours[f"{name}.weight"] += delta(update)
    assert_same(ours, {n: theta_o[n] - scale * (theta_m[n] - theta_o[n]) for n in base})


def test_negation_equals_peft_s_concatenation_where_targets_are_equal() -> None:
    targets = Lora(rank=4, alpha=6, targets=["q_proj", "v_proj"])
    model = stacked(targets.model_copy(update={"rank": 8}), targets)
    ours = add(updates_of(model, "subject"), updates_of(model, "acquired"), -0.7)
    model.add_weighted_adapter(["subject", "acquired"], [1.0, -0.7], "both", combination_type="cat")
    assert_same(products(ours), products(updates_of(model, "both")))


def test_lambda_zero_is_the_identity_and_twice_negated_is_back() -> None:
    model = stacked()
    subject, acquired = updates_of(model, "subject"), updates_of(model, "acquired")
    zero = {name: torch.zeros_like(v) for name, v in products(acquired).items()}
    before = zero | products(subject)
    assert_same(products(add(subject, acquired, 0.0)), before)
    assert_same(products(add(add(subject, acquired, -0.8), acquired, 0.8)), before)


def test_a_subject_without_adapter_gives_the_task_vector_alone() -> None:
    acquired = updates_of(stacked(), "acquired")
    flipped = {name: -vector for name, vector in products(acquired).items()}
    assert_same(products(add({}, acquired, -1.0)), flipped)


def test_arithmetic_leaves_its_arguments_as_they_were() -> None:
    model = stacked()
    subject, acquired = updates_of(model, "subject"), updates_of(model, "acquired")
    before = products(subject) | {f"t.{k}": v for k, v in products(acquired).items()}
    add(subject, acquired, -1.0)
    assert_same(products(subject) | {f"t.{k}": v for k, v in products(acquired).items()}, before)


def test_a_written_adapter_loads_with_plain_peft_and_gives_the_same_logits(tmp_path: Path) -> None:
    model = stacked()
    with torch.no_grad():
        for module in model.modules():
            if "acquired" in getattr(module, "lora_A", {}):
                module.scaling["acquired"] *= -0.5
        expected = model(IDS).logits
    # `scaling` is changed above, so the second update is read with its sign.
    updates = add(updates_of(model, "subject"), updates_of(model, "acquired"), 1.0)
    write_adapter(tmp_path, updates, "base")
    loaded = peft.PeftModel.from_pretrained(tiny.llama(), str(tmp_path)).double()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [12, 13])
def test_block_numbers_that_begin_alike_are_not_mixed_up(tmp_path: Path, layers: int) -> None:
    base = tiny.llama(num_hidden_layers=layers)
    lora = Lora(rank=2, alpha=3, targets=["q_proj", "up_proj"], first_layer=1)
    model, weights = tiny.with_lora(base, lora)
    ranks = updates_of(model, "acquired")
    # One update of another rank and scale, as after negation: only patterns can say so.
    name = "model.layers.1.self_attn.q_proj"
    odd = add(ranks, {name: ranks[name]}, -3.0)
    write_adapter(tmp_path, odd, "base")
    write_manifest(tmp_path, FILES)
    assert_same(products(read_adapter(tmp_path)), products(odd))
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path))
    assert_same(products(updates_of(loaded, "default")), products(odd))
    assert len(weights) == 2 * len(odd)


def test_an_adapter_comes_back_as_it_was_written(tmp_path: Path) -> None:
    updates = updates_of(stacked(), "acquired")
    write_adapter(tmp_path, updates, "base")
    write_manifest(tmp_path, FILES)
    again = read_adapter(tmp_path)
    assert list(again) == sorted(updates)
    for name, update in updates.items():
        assert torch.equal(again[name].a, update.a)
        assert torch.equal(again[name].b, update.b)
        assert again[name].scale == update.scale


def test_equal_adapters_give_equal_bytes(tmp_path: Path) -> None:
    updates = updates_of(stacked(), "acquired")
    for folder, order in (("a", updates), ("b", dict(reversed(updates.items())))):
        write_adapter(tmp_path / folder, order, "base")
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_released_chunks_subtract_a_tied_tensor_twice_and_ours_never_touches_it() -> None:
    tied, other = torch.full((3,), 1.0), torch.full((3,), 5.0)
    original = {"embed_tokens.weight": tied, "between": other, "lm_head.weight": tied}
    acquired = {name: tensor + 0.5 for name, tensor in original.items()}
    whole = released.chunked_negation({k: v for k, v in original.items()}, acquired, chunk=1)
    assert whole["between"].tolist() == [4.5] * 3
    assert whole["lm_head.weight"].tolist() == [0.0] * 3, "1 - 2 * 0.5 instead of 1 - 0.5"
    model = stacked()
    names = set(add(updates_of(model, "subject"), updates_of(model, "acquired"), -1.0))
    assert not any("embed_tokens" in name or "lm_head" in name for name in names)


def test_released_negation_in_low_precision_loses_the_vector_and_an_adapter_keeps_it() -> None:
    torch.manual_seed(0)
    weight = 2e-2 * torch.randn(64, 64)
    vector = 2e-5 * torch.randn(64, 64)
    merged = weight.bfloat16() - vector.bfloat16()
    lost = ((weight.bfloat16() - merged).float() - vector).norm() / vector.norm()
    assert lost > 0.5
    updates = {"m": Update(torch.eye(64), vector, 1.0)}
    kept = delta(add({}, updates, -1.0)["m"]) + vector.double()
    assert kept.norm() / vector.norm() < 1e-6
