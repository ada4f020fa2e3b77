"""Whole runs of every method: seeds, what changes, what is written and loads again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kit import methods
from kit import models as tiny
from kit.methods import ALGORITHMS, SETS
from palimpsest.engine.rows import Row
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MODEL, REFERENCE, TRAINING_LOG, VECTORS
from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import read_adapter
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Unlearn
from palimpsest.stages.reference import folder_of
from palimpsest.stages.unlearn import unlearn


def trained(key: str, folder: Path, seed: int, **over: Any) -> dict[str, Tensor]:
    # `project` heals what it took away: from a subject without knowledge it takes nothing.
    moved = key == "project"
    made = methods.bench(key, folder, dtype=torch.float32, seed=seed, moved=moved, **over)
    train(made.job)
    return {name: weight.detach().clone() for name, weight in made.job.weights.items()}


@pytest.mark.parametrize("key", ALGORITHMS)
def test_one_seed_gives_the_same_weights_and_another_gives_others(key: str, tmp_path: Path) -> None:
    """Analysis360 7 (10)."""
    runs = [trained(key, tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6))]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("key", methods.ON_WEIGHTS)
def test_a_step_changes_exactly_the_selected_tensors(key: str, tmp_path: Path) -> None:
    """Analysis360 7 (7): the other tensors, and what blocks below the first trained one put out,
    are the same to the bit."""
    made = methods.bench(key, tmp_path, dtype=torch.float32, moved=False, steps=2)
    before = tensors(made.model)
    row = SETS["forget"][0]
    blocks = block_outputs(made.model, row)
    train(made.job)
    after = tensors(made.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    }
    now = block_outputs(made.model, row)
    assert [torch.equal(a, b) for a, b in zip(blocks, now, strict=True)] == [True, False] + [
        False
    ] * (tiny.LAYERS - 2)


def tensors(model: Any) -> dict[str, Tensor]:
    """Every weight as the model computes with it, by its plain name."""
    found = {}
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix:
            continue
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if hasattr(module, "parametrizations"):
            names += list(module.parametrizations)
        for name in names:
            found[f"{prefix}.{name}"] = getattr(module, name).detach().clone()
    return found


@torch.no_grad()
def block_outputs(model: Any, row: Row) -> list[Tensor]:
    """Output of each block."""
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in model.model.layers
    ]
    model(input_ids=row.ids[None])
    for hook in hooks:
        hook.remove()
    return outputs


def unlearned(inputs: dict[str, Path], out: Path, key: str, seed: int = 0, **over: Any) -> Path:
    given = methods.method(key, **over).model_dump(exclude={"seeds", "models", "title"})
    config = {
        **methods.LOAD,
        "settings": given,
        "seed": seed,
        "sets": {"forget": "set/forget", "retain": "set/retain"},
    }
    free = {"checkpoint_seconds": 1e9, "gradient_checkpointing": False}
    unlearn(Unlearn(config=config, untracked=free, **inputs, out=out, label=key, threads=1))
    return out


@pytest.mark.parametrize("key", [key for key in methods.ON_WEIGHTS if key != "lunar"])
def test_one_seed_gives_one_delta_file_and_another_seed_another(
    key: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Analysis360 7 (10); #5: the released seed changes nothing. (LUNAR is solved, not drawn.)"""
    outs = [unlearned(inputs, tmp_path / str(i), key, seed) for i, seed in enumerate((3, 3, 4))]
    hashes = [sha256_of(out / "delta.safetensors") for out in outs]
    assert hashes[0] == hashes[1] != hashes[2]
    files = {
        "delta.safetensors",
        MODEL,
        TRAINING_LOG,
        *([VECTORS] if methods.bench(key).job.fixed else []),
    }
    assert {p.name for p in outs[0].iterdir()} == files
    description = json.loads((outs[0] / MODEL).read_text())
    assert description["kind"] == "delta"
    assert description["trained_tensors"] == 2


@pytest.mark.parametrize("key", ["max_entropy", "rmu"])
@pytest.mark.parametrize("start", ["weights", "fresh"])
def test_what_was_trained_loads_with_an_adapter_too(
    key: str, start: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """#27: the released LoRA run ends in an AttributeError once it has trained."""
    training: dict[str, Any] = {"optimizer": {"learning_rate": 1e-2}}
    trained = {"parameters": [methods.DOWN]}
    training |= trained if start == "weights" else {"lora": {"targets": tiny.TARGETS}}
    out = unlearned(inputs, tmp_path / "model", key, start=start, training=training)
    model = load_model(out, inputs["base"], "float32", torch.device("cpu"))
    ids = methods.SETS["forget"][0].ids[None]
    with torch.no_grad():
        moved = (model(ids).logits - tiny.llama(torch.float32)(ids).logits).abs().max()
    assert moved > 1e-3


def test_an_adapter_ends_where_the_pass_ends(inputs: dict[str, Path], tmp_path: Path) -> None:
    training = {"optimizer": {"learning_rate": 1e-2}, "lora": {"targets": tiny.TARGETS}}
    out = unlearned(inputs, tmp_path / "model", "rr", blocks=[1], training=training)
    updates = read_adapter(out, MODEL)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in updates} == {0, 1}
    assert all(update.b.abs().max() > 0 for update in updates.values())
    model = load_model(out, inputs["base"], "float32", torch.device("cpu"))
    ids = methods.SETS["forget"][0].ids[None]
    with torch.no_grad():
        moved = (model(ids).logits - tiny.llama(torch.float32)(ids).logits).abs().max()
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("key", "part", "advice"),
    [("max_entropy", "retain", "leave the head out or use retain_term: ce$"),
     ("undial", "forget", "leave the head out$")],
)  # fmt: skip
def test_a_head_that_is_trained_and_compared_is_refused_before_training(
    key: str, part: str, advice: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    training = {**methods.RATE, "parameters": [r"model\.embed_tokens\.weight"]}
    reference = folder_of(tmp_path / "reference", f"set/{part}", "states")
    reference.mkdir(parents=True)
    states = {row.id: torch.zeros(len(row), tiny.WIDTH) for row in methods.SETS[part]}
    save_file(states, reference / REFERENCE)
    write_manifest(reference, [REFERENCE])
    compared = {**inputs, "reference": tmp_path / "reference"}
    over: dict[str, Any] = {"retain_term": "kl"} if part == "retain" else {"weights": {"retain": 0}}
    with pytest.raises(UserError, match=f"matches the language-model head.*{advice}"):
        unlearned(compared, tmp_path / "m", key, start="weights", training=training, **over)


def test_a_retain_set_smaller_than_a_batch_is_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a step draws 5 rows of the retain set, which has 4"):
        unlearned(inputs, tmp_path / "m", "min_posterior", rows={"forget": 2, "retain": 5})
