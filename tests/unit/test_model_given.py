"""An adapter that was trained elsewhere is a subject, and a model that was, the gold standard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from kit import models as tiny
from kit.families import FAMILIES
from palimpsest.errors import UserError
from palimpsest.io.manifest import read_manifest
from palimpsest.model.adapter import Update, updates_of
from palimpsest.model.base import load_base
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.model.lora import add_trainable, attach_subject
from palimpsest.model.merged import write_merged
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Describe, Pretrain, Retrain
from palimpsest.sources.models import fetch_model
from palimpsest.stages.describe import describe
from palimpsest.stages.pretrain import pretrain

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base's folder."""
    return tiny.save_base(tmp_path / "base", tiny.llama(torch.float32))


def peft_adapter(
    folder: Path, model: Any, targets: list[str] | None = None, **more: Any
) -> tuple[Path, torch.Tensor]:
    """An adapter as PEFT saves it, and the logits that it gives."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": targets or ["q_proj", "down_proj"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{**settings, **more}))
    tiny.perturb({n: p for n, p in adapted.named_parameters() if "lora_B" in n})
    adapted.eval().save_pretrained(str(folder))
    with torch.no_grad():
        return folder, adapted(input_ids=IDS).logits


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def take(stage: Any, base: Path, source: str, out: Path) -> Path:
    config = {
        "base": "tiny",
        "dtype": "float32",
        "trust_remote_code": False,
        "given": {"source": source, "content": None},
    }
    pretrain(stage(config=config, base=base, tokens=out.parent / "tokens", out=out))
    return out


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}},
        {"layers_to_transform": [1, 3]},
    ],
)
def test_an_adapter_by_peft_is_the_subject(
    base: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    folder, expected = peft_adapter(tmp_path / "adapter", tiny.llama(torch.float32), **more)
    subject = take(Pretrain, base, f"path:{folder}", tmp_path / "subject")
    model = attach_subject(load_base(base, "float32", CPU), subject)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert read_manifest(subject)["adapter"] is True
    described = tmp_path / "original" / "model"
    describe(Describe(config={"own_training": False}, base=base, adapter=subject, out=described))
    loaded = load_model(described, base, "float32", CPU)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_conv1d_layers_is_the_subject_and_merges(tmp_path: Path) -> None:
    """GPT-2 keeps its matrices as [inputs, outputs]; one of them is square."""
    model = FAMILIES["gpt2"].model(torch.float32)
    base = tiny.save_base(tmp_path / "base", model)
    folder, expected = peft_adapter(
        tmp_path / "adapter", model, ["c_attn", "attn.c_proj"], fan_in_fan_out=True
    )
    subject = take(Pretrain, base, f"path:{folder}", tmp_path / "subject")
    described = tmp_path / "original" / "model"
    describe(Describe(config={"own_training": False}, base=base, adapter=subject, out=described))
    loaded = load_model(described, base, "float32", CPU)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)
    write_merged(base, described, tmp_path / "merged", lambda _: None)
    merged = load_base(tmp_path / "merged", "float32", CPU)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)


def test_a_whole_model_is_the_gold_standard_as_differences(base: Path, tmp_path: Path) -> None:
    other = tiny.llama(torch.float32)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight += 0.1
        other.model.norm.weight *= 1.5
    folder = tiny.save_base(tmp_path / "other", other)
    retained = take(Retrain, base, f"path:{folder}", tmp_path / "retained")
    assert set(load_file(retained / "delta.safetensors")) == {
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    }
    described = tmp_path / "retrained" / "model"
    describe(Describe(config={"own_training": True}, base=base, adapter=retained, out=described))
    loaded = load_model(described, base, "float32", CPU)
    torch.testing.assert_close(logits(loaded), logits(other), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"the folder of a LoRA adapter .*a whole model is a base"):
        take(Pretrain, base, f"path:{folder}", tmp_path / "subject")


def test_a_model_of_another_shape_is_not_the_gold_standard(base: Path, tmp_path: Path) -> None:
    for name, config, message in (
        ("wide", {"intermediate_size": 64}, r"does not fit .* is \[.*64.*\] instead of"),
        ("deep", {"num_hidden_layers": 5}, "one of them alone has the tensor model.layers.4"),
    ):
        other = tiny.save_base(tmp_path / name, tiny.llama(torch.float32, **config))
        with pytest.raises(UserError, match=message):
            take(Retrain, base, f"path:{other}", tmp_path / "retained")


def changed_config(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))

    return change


def changed_tensors(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return apply


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_config(peft_type="IA3"), "peft_type: IA3; LORA alone"),
        (changed_config(use_dora=True), "use_dora is set"),
        (
            lambda f: (f / "adapter_config.json").write_text("{}"),
            "by PEFT .*peft_type",
        ),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "is missing; it has .*README"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 20),
            "truncated or damaged",
        ),
        (changed_tensors(lambda t: {k: v for k, v in t.items() if k != A}), "lacks lora_A or"),
        (changed_tensors(lambda t: t | {A: t[A][:, :5].clone()}), "does not fit .*32 inputs"),
        (changed_tensors(lambda t: t | {A: t[A] * torch.nan}), "not finite"),
        (
            changed_tensors(lambda t: t | {"base_model.model.lm_head": t[A].clone()}),
            "no part of",
        ),
        (
            changed_tensors(lambda t: {k.replace("layers.3", "layers.7"): v for k, v in t.items()}),
            r"has no module model\.layers\.7",
        ),
    ],
)
def test_an_adapter_that_cannot_be_taken_is_refused(
    base: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder, _ = peft_adapter(tmp_path / "adapter", tiny.llama(torch.float32))
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        take(Pretrain, base, f"path:{folder}", tmp_path / "subject")
    assert str(raised.value).startswith(f"source 'path:{folder}'")


def test_sources_of_other_kinds_are_refused(base: Path, tmp_path: Path) -> None:
    for source, message in (
        ("path:/nowhere", "there is no such folder"),
        ("pypi:x==1", "path:folder or hub:org/name is needed here"),
    ):
        with pytest.raises(UserError, match=message):
            take(Pretrain, base, source, tmp_path / "subject")


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_folder_with_another_tokenizer_is_refused(kind: str, base: Path, tmp_path: Path) -> None:
    if kind == "adapter":
        folder, _ = peft_adapter(tmp_path / "other", tiny.llama(torch.float32))
    else:
        folder = tiny.save_base(tmp_path / "other", tiny.llama(torch.float32))
    text = (base / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    stage = Pretrain if kind == "adapter" else Retrain
    assert take(stage, base, f"path:{folder}", tmp_path / "same")
    changed = json.loads(text)
    vocabulary = changed["model"]["vocab"]
    vocabulary["w5"], vocabulary["w6"] = vocabulary["w6"], vocabulary["w5"]
    (folder / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer is another one than that of its base base"):
        take(stage, base, f"path:{folder}", tmp_path / "another")


def test_an_adapter_that_names_another_base_is_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = peft_adapter(tmp_path / "other", tiny.llama(torch.float32))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, told in (("org/Other-7B", True), ("elsewhere/base", False)):
        path.write_text(json.dumps(config | {"base_model_name_or_path": name}), encoding="utf-8")
        take(Pretrain, base, f"path:{folder}", tmp_path / "subject")
        assert (f"was made for '{name}'" in capsys.readouterr().out) == told


def test_the_tokenizer_of_another_model_may_be_named(base: Path, tmp_path: Path) -> None:
    """MUSE's models are published without one."""
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (bare / name).unlink(missing_ok=True)
    for tokenizer in (None, f"path:{base}"):
        out = tmp_path / f"taken-{tokenizer is None}"
        out.mkdir()
        if tokenizer is None:
            with pytest.raises(UserError, match="there is no tokenizer in it"):
                fetch_model(f"path:{bare}", out)
        else:
            fetch_model(f"path:{bare}", out, tokenizer=tokenizer)
            assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="there is no tokenizer in it"):
        fetch_model(f"path:{bare}", tmp_path / "taken-True", tokenizer=f"path:{tmp_path}")


def go_on(base: Path, before: Path, subject: Path) -> None:
    """Make what a request left the subject of the next one."""
    config = {"base": "tiny", "dtype": "float32", "trust_remote_code": False, "pretrain": None}
    tokens = base.parent / "tokens"
    pretrain(Pretrain(config=config, base=base, before=before, tokens=tokens, out=subject))


@pytest.mark.parametrize("parts", ["adapter", "delta", "adapter+delta", "base"])
def test_what_a_request_left_is_the_subject_of_the_next_one(
    base: Path, tmp_path: Path, parts: str
) -> None:
    """Training starts from the model that the first request left, whatever it consists of."""
    updates: dict[str, Update] = {}
    if "adapter" in parts:
        model, weights = add_trainable(tiny.llama(torch.float32), tiny.LORA, "taught", 0)
        tiny.perturb({name: w for name, w in weights.items() if "lora_B" in name})
        updates = updates_of(model, "taught")
    name = "model.layers.1.mlp.down_proj.weight"
    change = torch.full(tiny.llama().state_dict()[name].shape, 0.01)
    before, subject = tmp_path / "before", tmp_path / "subject"
    written = partial(write_deltas, deltas={name: change}) if "delta" in parts else None
    write_model(before, base, updates, written)
    go_on(base, before, subject)
    assert read_manifest(subject)["adapter"] is ("adapter" in parts)
    assert subject.stat().st_mode & 0o077 == 0, "the model before unlearning is private"
    left = logits(load_model(before, base, "float32", CPU))
    if parts != "base":
        assert not left.equal(logits(load_base(base, "float32", CPU)))
    trained = attach_subject(load_base(base, "float32", CPU), subject)
    torch.testing.assert_close(logits(trained), left, rtol=1e-5, atol=1e-5)
    original = tmp_path / "original" / "model"
    describe(Describe(config={"own_training": False}, base=base, adapter=subject, out=original))
    assert logits(load_model(original, base, "float32", CPU)).equal(left)
    # A later request leaves nothing of an earlier one's files behind.
    write_model(before, base, {})
    go_on(base, before, subject)
    assert not {*subject.glob("*.safetensors")}


def test_what_was_left_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    other = tiny.save_base(tmp_path / "other", tiny.llama(torch.float32, seed=1))
    write_model(tmp_path / "before", other, {})
    with pytest.raises(UserError, match="was made from another version of"):
        go_on(base, tmp_path / "before", tmp_path / "subject")
