"""Training base tensors through a difference: names, ties, precision, files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.io.artifacts import DELTA_WEIGHTS
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import write_document
from palimpsest.model.delta import (
    add_deltas,
    add_to_weights,
    attach_deltas,
    base_tensors,
    read_deltas,
    set_factor,
    write_deltas,
    write_scaled,
)
from palimpsest.model.names import base_name, block_of, first_block, lora_name

IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])
DOWN = r"model\.layers\.(1|3)\.mlp\.down_proj\.weight"
CHOSEN = ["model.layers.1.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight"]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
def test_a_difference_of_zero_changes_no_bit(build: Any) -> None:
    model = build(torch.bfloat16)
    before = logits(model)
    weights = add_deltas(model, [r".*\.weight"])
    assert len(weights) > 10
    assert torch.equal(logits(model), before)
    assert all(w.dtype == torch.float32 and w.is_leaf and w.requires_grad for w in weights.values())


def test_a_pattern_chooses_by_the_whole_name() -> None:
    model = tiny.llama()
    weights = add_deltas(model, [DOWN])
    assert list(weights) == CHOSEN
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"model.layers.{i}.mlp.down_proj.parametrizations.weight.0.value" for i in (1, 3)
    }
    assert add_deltas(tiny.llama(), [r"model\.norm\.weight", DOWN]).keys() == {
        "model.norm.weight",
        *CHOSEN,
    }


def test_names_are_those_of_the_base_under_an_adapter_too() -> None:
    plain = tiny.llama()
    wrapped, _ = tiny.with_lora(plain)
    assert set(base_tensors(wrapped)) == set(base_tensors(plain))
    assert set(base_tensors(plain)) == {name for name, _ in plain.named_parameters()}
    before = logits(wrapped)
    weights = add_deltas(wrapped, [r"model\.layers\.2\.self_attn\.q_proj\.weight"])
    assert torch.equal(logits(wrapped), before), "the adapter still acts"
    tiny.perturb(weights)
    assert not torch.equal(logits(wrapped), before)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        (r"model\.layers\.(5|6|7)\.mlp\.c_proj\.weight", "down_proj"),
        (r"model\.layers\.1\.mlp\.down_proj", "model.layers.1.mlp.down_proj.weight"),
        (r"layers\.1\.mlp\.down_proj\.weight", "model.layers.1.mlp.down_proj.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_names_near_ones(pattern: str, near: str) -> None:
    model = tiny.llama()
    with pytest.raises(UserError) as refused:
        add_deltas(model, [DOWN, pattern])
    message = str(refused.value)
    assert message.startswith(f"training.parameters: '{pattern}' matches no tensor of the model")
    assert near in message
    assert not any(p.requires_grad for p in model.parameters()), "nothing was changed yet"


def test_a_tied_tensor_has_one_difference_that_acts_at_every_place() -> None:
    model = tiny.llama()
    weights = add_deltas(model, [r"model\.embed_tokens\.weight"])
    assert list(weights) == ["model.embed_tokens.weight"]
    tiny.perturb(weights)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(embedding, head)
    expected = copy.deepcopy(tiny.llama())
    with torch.no_grad():
        expected.get_input_embeddings().weight += weights["model.embed_tokens.weight"]
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-12, atol=1e-12)


def test_small_updates_of_a_bfloat16_weight_add_up() -> None:
    """KnowUnDo B20, Analysis360 2.3: a pure bfloat16 weight rounds each of these steps away."""
    model = tiny.llama(torch.bfloat16)
    name = CHOSEN[0]
    weights = add_deltas(model, [DOWN])
    plain = base_tensors(tiny.llama(torch.bfloat16))[name][0][0].weight.detach().clone()
    large = plain.abs() > 0.02
    alone = plain.clone()
    with torch.no_grad():
        for _ in range(100):
            alone += 2e-5
            weights[name] += 2e-5
    assert torch.equal(alone[large], plain[large]), "100 steps of 2e-5 are lost"
    torch.testing.assert_close(weights[name], torch.full_like(weights[name], 2e-3))
    moved = model.model.layers[1].mlp.down_proj.weight.detach()
    assert (moved[large & (plain.abs() < 0.2)] != plain[large & (plain.abs() < 0.2)]).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_differences_in_the_weights_give_the_bits_of_those_beside_them(dtype: torch.dtype) -> None:
    beside, within = tiny.llama(dtype), tiny.llama(dtype)
    values = add_deltas(beside, [DOWN, r"model\.embed_tokens\.weight"])
    tiny.perturb(values)
    before = logits(within)
    add_to_weights(within, values)
    assert torch.equal(logits(within), logits(beside))
    assert not torch.equal(logits(within), before)
    assert within.lm_head.weight is within.model.embed_tokens.weight
    with pytest.raises(UserError, match="the model has no tensor other"):
        add_to_weights(within, {"other": values["model.embed_tokens.weight"]})


def test_differences_come_back_as_they_were_written(tmp_path: Path) -> None:
    model = tiny.llama(torch.float32)
    weights = add_deltas(model, [DOWN])
    tiny.perturb(weights)
    write_deltas(tmp_path, weights)
    write_manifest(tmp_path, [DELTA_WEIGHTS])
    read = read_deltas(tmp_path, "manifest.json")
    assert set(read) == set(CHOSEN), "the changed tensors alone are stored"
    other = tiny.llama(torch.float32)
    attach_deltas(other, read)
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("factor", [0.0, -1.5])
def test_differences_are_scaled_in_place(tmp_path: Path, factor: float) -> None:
    weights = add_deltas(tiny.llama(torch.float32), [DOWN])
    tiny.perturb(weights)
    write_deltas(tmp_path, weights)
    write_manifest(tmp_path, [DELTA_WEIGHTS])
    scaled, other = tiny.llama(torch.float32), tiny.llama(torch.float32)
    attach_deltas(scaled, read_deltas(tmp_path, "manifest.json"))
    set_factor(scaled, factor)
    write_scaled(tmp_path / "scaled", tmp_path, factor, "manifest.json")
    write_manifest(tmp_path / "scaled", [DELTA_WEIGHTS])
    attach_deltas(other, read_deltas(tmp_path / "scaled", "manifest.json"))
    torch.testing.assert_close(logits(scaled), logits(other))


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    write_deltas(tmp_path, {"w": torch.ones(3)})
    manifest = write_manifest(tmp_path, [DELTA_WEIGHTS])
    content = bytearray((tmp_path / DELTA_WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / DELTA_WEIGHTS).write_bytes(content)
    for read in (
        lambda: read_deltas(tmp_path, "manifest.json"),
        lambda: write_scaled(tmp_path / "scaled", tmp_path, -1.0, "manifest.json"),
    ):
        (tmp_path / DELTA_WEIGHTS).write_bytes(content)
        write_document(tmp_path / "manifest.json", manifest)
        with pytest.raises(UserError, match=DELTA_WEIGHTS):
            read()
    assert not (tmp_path / "scaled").exists()


@pytest.mark.parametrize("cut", [4, 100])
def test_a_cut_file_is_refused_for_that_and_for_nothing_else(tmp_path: Path, cut: int) -> None:
    write_deltas(tmp_path, {"w": torch.ones(300)})
    write_manifest(tmp_path, [DELTA_WEIGHTS])
    (tmp_path / DELTA_WEIGHTS).write_bytes((tmp_path / DELTA_WEIGHTS).read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"{DELTA_WEIGHTS}.* has {cut} bytes instead of"):
        write_scaled(tmp_path / "scaled", tmp_path, -1.0, "manifest.json")
    assert not (tmp_path / "scaled").exists()


def test_the_digest_of_what_was_written_is_that_of_the_file(tmp_path: Path) -> None:
    digest = write_deltas(tmp_path, {"w": torch.randn(300, 7), "v": torch.ones(2)})
    manifest = write_manifest(tmp_path, [DELTA_WEIGHTS], digests={DELTA_WEIGHTS: digest})
    assert manifest["files"] == write_manifest(tmp_path, [DELTA_WEIGHTS])["files"]


def test_a_difference_of_another_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"the model has no tensor model\.layers\.9\.mlp"):
        attach_deltas(tiny.llama(), {"model.layers.9.mlp.down_proj.weight": torch.zeros(1)})


def test_names() -> None:
    assert base_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer") == (
        "model.layers.0.self_attn.q_proj"
    )
    published = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    ours = "model.layers.0.self_attn.q_proj.lora_A.weight"
    assert lora_name(published) == lora_name(ours) == ours
    assert [block_of(n) for n in ("model.layers.12.mlp.x", "transformer.h.3.mlp", "lm_head")] == [
        12,
        3,
        None,
    ]
    assert first_block(CHOSEN) == 1
    assert first_block([*CHOSEN, "model.norm.weight"]) == 0


def test_parameters_are_chosen_by_name_and_nothing_is_evaluated(tmp_path: Path) -> None:
    """#28: positions pick other tensors in other architectures, and the setting is run as code."""
    trap = tmp_path / "trap"
    with pytest.raises(UserError, match="matches no tensor"):
        add_deltas(tiny.llama(), [f"open('{trap}', 'w')"])
    assert not trap.exists()
    for build, name in [
        (tiny.llama, r"model\.layers\.1\.mlp\.down_proj\.weight"),
        (tiny.neox, r"gpt_neox\.layers\.1\.mlp\.dense_4h_to_h\.weight"),
        (tiny.opt, r"model\.decoder\.layers\.1\.fc2\.weight"),
    ]:
        (weight,) = add_deltas(build(), [name]).values()
        assert weight.shape == (tiny.WIDTH, 48), "the projection down, wherever it stands"
