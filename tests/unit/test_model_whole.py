"""A folder that is not the model of its config is refused when it is fetched, and at each load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.model.base import load_base
from palimpsest.sources.models import fetch_model

CPU = torch.device("cpu")
Tensors = dict[str, Tensor]

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that nothing is wrong with."""
    return tiny.save_base(tmp_path_factory.mktemp("whole") / "base", tiny.llama(torch.float32))


def variant(
    whole: Path,
    folder: Path,
    tensors: Callable[[Tensors], Tensors] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A copy with other tensors or other keys of config.json."""
    shutil.copytree(whole, folder)
    if tensors is not None:
        changed = tensors(load_file(folder / "model.safetensors"))
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        table = json.loads((folder / "config.json").read_text()) | config
        table = {key: value for key, value in table.items() if value != "ABSENT"}
        (folder / "config.json").write_text(json.dumps(table))
    write_manifest(folder, [p.name for p in folder.iterdir() if p.name != "manifest.json"])
    return folder


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


def changed(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        key: change(value) if part in key else value for key, value in tensors.items()
    }


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def one_nan(tensor: Tensor) -> Tensor:
    tensor.view(-1)[-1] = torch.nan
    return tensor


FAULTS: dict[str, tuple[Any, Any, str]] = {
    "a tensor is missing": (without(DOWN), None, f"lacks tensors .*: {DOWN}$"),
    "other names": (renamed("model.", "other.model."), None, "lacks tensors .*embed_tokens.*more"),
    "a block more": (None, {"num_hidden_layers": 5}, r"lacks tensors .*model\.layers\.4\."),
    "a block less": (None, {"num_hidden_layers": 3}, r"does not use: model\.layers\.3\."),
    "no head": (None, {"tie_word_embeddings": False}, r"lacks tensors .*lm_head\.weight"),
    "other shapes": (
        None,
        {"intermediate_size": 64},
        r"other shapes: model\.layers\.0\.mlp\.down_proj\.weight \[32, 48\] instead of \[32, 64\]",
    ),
    "a larger vocabulary": (None, {"vocab_size": 120}, r"\[100, 32\] instead of \[120, 32\]"),
    "whole numbers": (
        changed("up_proj", lambda t: t.to(torch.int8)),
        None,
        r"no plain numbers: model\.layers\.0\.mlp\.up_proj\.weight \(int8\)",
    ),
    "eight bits": (
        changed("up_proj", lambda t: t.to(torch.float8_e4m3fn)),
        None,
        r"no plain numbers: .*\(float8_e4m3fn\)",
    ),
    "not a number": (changed("2.mlp.up_proj", one_nan), None, r"layers\.2.*not finite"),
    "infinity": (changed("norm", lambda t: t / 0), None, r"norm\.weight .*not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_model_of_its_config_is_refused(
    whole: Path, tmp_path: Path, fault: str
) -> None:
    tensors, config, message = FAULTS[fault]
    folder = variant(whole, tmp_path / "source", tensors, config)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message) as fetched:
        fetch_model(f"path:{folder}", tmp_path / "out", log=[].append)
    assert str(fetched.value).startswith(str(folder))
    # Folders that were fetched by an earlier version are there already.
    with pytest.raises(UserError, match=message):
        load_base(folder, "float32", CPU)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": "100"}, "vocab_size.*expected int, got str"),
        ({"rope_parameters": {"rope_type": "weird"}}, r"json, rope_parameters\.rope_type: .*weird"),
        ({"hidden_act": "foo"}, "json, hidden_act: .*foo"),
        ({"dtype": "int99"}, "json, dtype: .*int99"),
        ({"num_attention_heads": 0}, "json, num_attention_heads: .*ZeroDivisionError"),
        ({"num_attention_heads": 5}, "multiple of the number of attention heads"),
        ({"max_position_embeddings": True}, "max_position_embeddings.*got bool"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config: .*plain"),
        ({"model_type": "ABSENT"}, "a `model_type` key"),
        ({"model_type": "bert"}, "no decoder with a list of blocks"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.X"}}, r"\(own\.py\)"),
        ({"eos_token_id": -1}, r"eos_token_id: -1 is no token; write null or ids from 0 to 99"),
        ({"eos_token_id": []}, "eos_token_id: an empty list names no token"),
        ({"eos_token_id": [1, 100]}, r"eos_token_id: \[1, 100\] is no token"),
    ],
)
def test_a_config_that_describes_no_model_is_one_line(
    whole: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = variant(whole, tmp_path / "source", config=config)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message) as raised:
        fetch_model(f"path:{folder}", tmp_path / "out", log=[].append)
    assert str(raised.value).startswith(f"{folder}, config.json")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100000, "1" * 5000])
def test_a_config_that_is_no_object_is_one_line(whole: Path, tmp_path: Path, text: str) -> None:
    folder = variant(whole, tmp_path / "source")
    (folder / "config.json").write_text(text)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"config\.json: "):
        fetch_model(f"path:{folder}", tmp_path / "out", log=[].append)


def frequencies(tensors: Tensors) -> Tensors:
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return tensors | {name.format(i): torch.ones(4) for i in range(tiny.LAYERS)}


def with_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


@pytest.mark.parametrize("tensors", [frequencies, with_head, renamed("model.", "")])
def test_what_is_the_same_model_by_other_files_is_taken(
    whole: Path, tmp_path: Path, tensors: Callable[[Tensors], Tensors]
) -> None:
    """Frequencies of earlier versions, a tied head stored twice, names without their first part."""
    folder = variant(whole, tmp_path / "source", tensors)
    (tmp_path / "out").mkdir()
    fetch_model(f"path:{folder}", tmp_path / "out", log=[].append)
    expected = load_base(whole, "float32", CPU).state_dict()
    found = load_base(folder, "float32", CPU).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("weights", [True, False])
def test_an_adapter_is_no_base(whole: Path, tmp_path: Path, weights: bool) -> None:
    """C8: with base weights beside it, it was left out in silence."""
    folder = variant(whole, tmp_path / "source")
    (folder / "adapter_config.json").write_text("{}")
    if not weights:
        (folder / "config.json").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"a LoRA adapter .* models\.<name>\.adapter") as raised:
        fetch_model(f"path:{folder}", tmp_path / "out", log=[].append)
    assert ("base weights" in str(raised.value)) is weights


def test_the_first_blocks_are_loaded_alone(whole: Path, tmp_path: Path) -> None:
    all_of_it = load_base(whole, "float32", CPU)
    first = load_base(whole, "float32", CPU, blocks=2)
    assert len(first.model.layers) == 2
    expected = all_of_it.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in first.state_dict().items())
    lacking = variant(whole, tmp_path / "lacking", without(DOWN))
    with pytest.raises(UserError, match=f"lacks tensors .*: {DOWN}$"):
        load_base(lacking, "float32", CPU, blocks=2)
    per_block = variant(whole, tmp_path / "per-block", config={"widths": [1, 2, 3, 4]})
    for folder, blocks, loaded in ((whole, 3, 3), (whole, 9, 4), (per_block, 3, 4)):
        assert len(load_base(folder, "float32", CPU, blocks=blocks).model.layers) == loaded
