"""LoRA layers on a model: what is trained, what stays frozen, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import Job, train
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.lora import activate, add_trainable, attach, attach_subject, set_scale
from palimpsest.settings.training import Lora, Optimizer

IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])
ROWS = tiny.rows([(4, 5), (7, 3), (3, 8)])


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """Folder of a subject's adapter."""
    model, _ = tiny.with_lora(tiny.llama(torch.float32), name="subject")
    write_adapter(tmp_path, updates_of(model, "subject"), "base")
    write_manifest(tmp_path, FILES, adapter=True)
    return tmp_path


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def part(model: Any, adapter: str) -> dict[str, bytes]:
    return {
        name: tensor.detach().numpy().tobytes()
        for name, tensor in model.named_parameters()
        if f".{adapter}." in name
    }


def trainable(model: Any) -> list[str]:
    return [name for name, tensor in model.named_parameters() if tensor.requires_grad]


def test_a_fresh_adapter_leaves_the_outputs_as_they_were(subject: Path) -> None:
    model = attach_subject(tiny.llama(torch.float32), subject)
    before = logits(model)
    assert not torch.equal(before, logits(tiny.llama(torch.float32)))
    model, weights = add_trainable(model, tiny.LORA, "acquired", seed=0)
    assert torch.equal(logits(model), before)
    assert any(w.abs().max() > 0 for w in weights.values()), "A is random"


def test_training_never_changes_a_byte_of_the_subject_or_the_base(
    subject: Path, tmp_path: Path
) -> None:
    model = attach_subject(tiny.llama(torch.float32), subject)
    model, weights = add_trainable(model, tiny.LORA, "acquired", seed=0)
    frozen = {n: t.detach().numpy().tobytes() for n, t in model.named_parameters()}
    job = Job(
        label="x",
        body=Body(model.get_base_model()),
        weights=weights,
        streams=Streams({"rows": 2}, {"rows": ROWS}, 0),
        loss=lambda streams: {"rows": streams["rows"].nll().mean()},
        steps=4,
        optimizer=Optimizer(learning_rate=1e-2, weight_decay=0.1),
        folder=tmp_path / "side",
        fingerprint="x",
    )
    train(job)
    changed = {n for n, t in model.named_parameters() if t.detach().numpy().tobytes() != frozen[n]}
    assert changed == set(weights)


def test_peft_s_own_switch_would_make_the_subject_trainable(subject: Path) -> None:
    model = attach_subject(tiny.llama(torch.float32), subject)
    model, weights = add_trainable(model, tiny.LORA, "acquired", seed=0)
    assert trainable(model) == list(weights)
    model.base_model.set_adapter(["subject", "acquired"])
    assert any(".subject." in name for name in trainable(model)), "the trap"
    activate(model)
    assert trainable(model) == []
    assert set(model.active_adapters) == {"subject", "acquired"}


def test_both_adapters_act(subject: Path) -> None:
    base = logits(tiny.llama(torch.float32))
    model = attach_subject(tiny.llama(torch.float32), subject)
    with_subject = logits(model)
    model, weights = add_trainable(model, tiny.LORA, "acquired", seed=0)
    tiny.perturb(weights)
    assert not torch.allclose(logits(model), with_subject)
    for weight in weights.values():
        weight.data.zero_()
    torch.testing.assert_close(logits(model), with_subject)
    assert not torch.allclose(with_subject, base)


def test_a_subject_that_is_the_bare_base_attaches_nothing(tmp_path: Path) -> None:
    write_manifest(tmp_path, [], adapter=False)
    model = tiny.llama()
    assert attach_subject(model, tmp_path) is model


def test_trained_weights_are_single_precision_on_a_bfloat16_base() -> None:
    model, weights = add_trainable(tiny.llama(torch.bfloat16), tiny.LORA, "acquired", seed=0)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    rows = tiny.rows([(3, 4), (5, 6)])
    hidden = Body(model.get_base_model()).hidden(rows)
    torch.stack([h.float().mean() for h in hidden]).sum().backward()
    assert any(w.grad is not None for w in weights.values())


def test_the_seed_alone_decides_the_start() -> None:
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(123 + len(starts))
        _, weights = add_trainable(tiny.llama(), tiny.LORA, "acquired", seed)
        starts.append(torch.cat([w.flatten() for w in weights.values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize(
    ("build", "targets"),
    [(tiny.opt, ["q_proj", "fc1"]), (tiny.neox, ["query_key_value", "dense_4h_to_h"])],
)
def test_targets_follow_the_architecture_s_own_names(build: Any, targets: list[str]) -> None:
    model = build()
    before = logits(model)
    model, weights = add_trainable(model, Lora(targets=targets, first_layer=3), "acquired", 0)
    assert len(weights) == 2 * len(targets)
    assert torch.equal(logits(model), before)


def test_an_unknown_target_names_the_valid_ones() -> None:
    lora = Lora(targets=["q_proj", "v_prj"])
    with pytest.raises(UserError) as error:
        add_trainable(tiny.llama(), lora, "acquired", 0)
    assert str(error.value) == (
        "training.lora.targets: no linear module 'v_prj' in the model; did you mean 'v_proj'? "
        "valid: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


@pytest.mark.parametrize("build", [tiny.llama, tiny.neox])
def test_the_head_is_no_target(build: Any) -> None:
    head = "lm_head" if build is tiny.llama else "embed_out"
    with pytest.raises(UserError, match=f"no linear module '{head}'"):
        add_trainable(build(), Lora(targets=[head]), "acquired", 0)


def test_targets_are_checked_on_a_model_with_a_subject_too(subject: Path) -> None:
    model = attach_subject(tiny.llama(), subject)
    with pytest.raises(UserError, match=r"no linear module 'qproj'.* valid: down_proj, .*q_proj"):
        add_trainable(model, Lora(targets=["qproj"]), "acquired", 0)


def test_a_first_block_beyond_the_last_names_the_blocks_there_are() -> None:
    message = "training.lora.first_layer: 4, but the model has blocks 0 to 3"
    with pytest.raises(UserError, match=message):
        add_trainable(
            tiny.llama(), Lora(first_layer=4, targets=["q_proj", "v_proj"]), "acquired", 0
        )


def test_blocks_below_the_first_one_get_no_adapter() -> None:
    _, weights = add_trainable(
        tiny.llama(), Lora(first_layer=2, targets=["q_proj", "v_proj"]), "acquired", 0
    )
    assert {name.split(".layers.")[1][0] for name in weights} == {"2", "3"}


def test_an_adapter_of_another_model_is_refused(subject: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_model\.safetensors does not fit the model"):
        attach_subject(tiny.llama(num_hidden_layers=2), subject)


def test_an_altered_adapter_is_refused(subject: Path) -> None:
    path = subject / FILES[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"has been altered \(its checksum differs\)"):
        attach_subject(tiny.llama(), subject)


def test_a_scale_can_be_set_again_and_again(subject: Path) -> None:
    model = attach(tiny.llama(torch.float32), subject, "acquired")
    updates = updates_of(model, "acquired")
    full = logits(model)
    set_scale(model, "acquired", 0.0, updates)
    torch.testing.assert_close(logits(model), logits(tiny.llama(torch.float32)))
    for factor in (-1.0, 3.0, 1.0):
        set_scale(model, "acquired", factor, updates)
    assert torch.equal(logits(model), full)
