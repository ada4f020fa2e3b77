"""FILA: golden factors, the importance, and a start that is the subject."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import jobs, methods
from kit import models as tiny
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.engine.body import Body
from palimpsest.engine.fila import SMALL, factors, initialise, squares
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MODEL
from palimpsest.model.adapter import read_adapter
from palimpsest.model.lora import add_trainable
from palimpsest.model.trainable import RESIDUAL, Trainable
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.results import slice_of
from palimpsest.pipeline.stages import Pretrain, Unlearn
from palimpsest.settings.training import Lora

FORGET, RETAIN = methods.SETS["forget"], methods.SETS["retain"]
LORA = Lora(rank=2, alpha=4, targets=["q_proj", "down_proj"], first_layer=1, init="fila")
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])


def test_the_golden_factors() -> None:
    i, j = torch.arange(4.0).double()[:, None], torch.arange(3.0).double()[None]
    weight, importance = (1.1 * i + 0.3 * j + 0.5).sin(), 1 + (2 * i - j).cos().square()
    a, b = factors(weight, importance, 1, 0.5)
    product = 0.5 * b @ a
    assert product[0].tolist() == pytest.approx(
        [0.637242986191, 0.725531673226, 0.749010776707], rel=1e-9
    )
    assert (weight - product).norm().item() == pytest.approx(0.554796952742, rel=1e-9)


def test_with_equal_importance_it_is_the_truncated_svd_and_all_ranks_are_the_matrix() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4).double()
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    a, b = factors(weight, torch.ones(6, 4).double(), 2, 3.0)
    torch.testing.assert_close(3 * b @ a, u[:, :2] * s[:2] @ vt[:2], rtol=1e-4, atol=1e-5)
    a, b = factors(weight, torch.rand(6, 4).double() + 0.1, 9, 3.0)
    assert a.shape == (9, 4)
    assert b.shape == (6, 9)
    torch.testing.assert_close(3 * b @ a, weight, rtol=1e-3, atol=1e-4)


def test_the_squared_gradients_are_those_of_plain_passes() -> None:
    model = tiny.llama()
    names = ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
    weights = {name: model.get_submodule(name).weight for name in names}
    found = squares(Body(model, 1), weights, RETAIN)
    plain = tiny.llama()
    for name in names:
        expected = torch.zeros_like(found[name])
        weight = plain.get_submodule(name).weight.requires_grad_(True)
        for row in RETAIN:
            logits = plain(row.ids[None]).logits[0, row.prompt_length - 1 : -1]
            cost = torch.nn.functional.cross_entropy(logits, row.response)
            expected += torch.autograd.grad(cost, weight)[0].square() / len(RETAIN)
        weight.requires_grad_(False)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-10)
        assert not weights[name].requires_grad


def begun(dtype: torch.dtype, subject: Any = None) -> tuple[Trainable, Body, Any]:
    """A model with FILA's adapter, and what it was before."""
    before = tiny.llama(dtype) if subject is None else subject
    model, weights = add_trainable(copy.deepcopy(before), LORA, "unlearned", 0)
    for weight in weights.values():
        weight.data = weight.data.to(torch.promote_types(dtype, torch.float32))
    trainable = Trainable(model, weights, "unlearned")
    body = Body(model.get_base_model(), 1)
    initialise(trainable, body, FORGET, RETAIN)
    return trainable, body, before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_model_is_the_subject_at_first(dtype: torch.dtype) -> None:
    trainable, body, before = begun(dtype)
    assert all(w.requires_grad and w.abs().max() > 0 for w in trainable.weights.values())
    plain = Body(before, 1)
    with torch.no_grad():
        for found, expected in zip(body.hidden(FORGET), plain.hidden(FORGET), strict=True):
            torch.testing.assert_close(found, expected)
    assert {len(u.a) for u in trainable.added().values()} == {4}, "both adapters"


def test_released_subtraction_in_bf16_begins_at_another_model() -> None:
    """W - s B A is rounded to bf16, and adding s B A does not bring W back."""
    trainable, _, before = begun(torch.bfloat16)
    name = "model.layers.1.self_attn.q_proj"
    weight = before.get_submodule(name).weight.float()
    layer = trainable.model.get_submodule(f"base_model.model.{name}")
    a, b = (getattr(layer, f"lora_{x}")["unlearned"].weight.float() for x in "AB")
    product = layer.scaling["unlearned"] * b @ a
    theirs = (weight - product).bfloat16().float() + product
    assert not torch.equal(theirs.bfloat16().float(), weight)
    ours = trainable.added()[name]
    torch.testing.assert_close(
        (ours.b @ ours.a).float(), torch.zeros_like(weight), rtol=0, atol=1e-6
    )


def test_what_a_subject_adds_counts_as_its_matrix() -> None:
    subject, _ = tiny.with_lora(tiny.llama(), name="subject")
    subject.requires_grad_(False)
    trainable, _, _ = begun(torch.float64, subject)
    name = "model.layers.1.self_attn.q_proj"
    layer = trainable.model.get_submodule(f"base_model.model.{name}")
    whole = layer.base_layer.weight + layer.get_delta_weight("subject")
    base = layer.base_layer

    def importance() -> Tensor:
        forget, retain = (
            squares(Body(trainable.model.get_base_model(), 1), {"q": base.weight}, rows)["q"]
            for rows in (FORGET, RETAIN)
        )
        found = forget / (retain + SMALL * retain.mean())
        return found / found.mean()

    # The model is the subject as yet, so the gradients are the subject's.
    a, b = factors(whole, importance(), 2, layer.scaling["unlearned"])
    found = layer.lora_B["unlearned"].weight @ layer.lora_A["unlearned"].weight
    torch.testing.assert_close(found, b @ a, rtol=1e-3, atol=1e-6)
    assert layer.scaling[RESIDUAL] == -layer.scaling["unlearned"]


def settings(**over: Any) -> dict[str, Any]:
    training = {"lora": LORA.model_dump(), "optimizer": {"learning_rate": 1e-2}}
    common = {"algorithm": "max_entropy", "start": "fresh", "steps": 4, "training": training}
    return {**common, "rows": {"forget": 2, "retain": 2}, **over}


def test_a_whole_run_leaves_an_adapter_for_the_untouched_base(tmp_path: Path) -> None:
    work = jobs.Work(tmp_path)
    tiny.save_base(work.base, tiny.llama(torch.float32))
    parts = {name: methods.SETS[name] for name in ("forget", "retain")}
    tiny.save_tokens(work.tokens / "set", parts)
    taught = {"lora": {"rank": 3, "targets": ["q_proj"]}, "optimizer": {"learning_rate": 1e-2}}
    teaching = {"data": ["set/forget"], "epochs": 2, "batch_rows": 4, "training": taught}
    work.run(Pretrain, "subject", {**jobs.LOAD, "pretrain": teaching})
    sets = {name: f"set/{name}" for name in parts}
    config = {**jobs.LOAD, "settings": settings(), "seed": 0, "sets": sets}
    out = work.run(Unlearn, "model", config)
    again = work.run(Unlearn, "again", config)
    ranks = {name: len(update.a) for name, update in read_adapter(out, MODEL).items()}
    assert ranks["model.layers.1.self_attn.q_proj"] == 3 + 2 + 2
    assert ranks["model.layers.1.mlp.down_proj"] == 2 + 2
    for name, update in read_adapter(again, MODEL).items():
        assert torch.equal(update.a, read_adapter(out, MODEL)[name].a)
        assert torch.equal(update.b, read_adapter(out, MODEL)[name].b)
    still = work.run(
        Unlearn,
        "still",
        {
            **config,
            "settings": settings(steps=1)
            | {"training": {**settings()["training"], "optimizer": {"learning_rate": 1e-12}}},
        },
    )
    cpu = torch.device("cpu")
    logits = []
    for folder in (work.describe("original"), still, out):
        with torch.no_grad():
            logits.append(load_model(folder, work.base, "float32", cpu)(IDS).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits[2], logits[0], atol=1e-3)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"start": "subject"}, "gives a fresh adapter its first values, and start is 'subject'"),
        (
            {"start": "weights", "training.tensors": "all"},
            "gives a fresh adapter its first values, and start is 'weights'",
        ),
        ({"weights": {"retain": 0}}, "this method reads no retain rows"),
        ({"algorithm": "gradient_ascent"}, "this method reads no retain rows"),
    ],
)
def test_what_fila_cannot_begin_is_refused(over: dict[str, Any], said: str) -> None:
    raw = put(raw_config(), "methods.loku", settings())
    for place, value in over.items():
        raw = put(raw, f"methods.loku.{place}", value)
    with pytest.raises(UserError, match=said):
        load_config(raw)


def test_pretraining_begins_at_zero() -> None:
    raw = put(raw_config(), "scenarios.taught.pretrain.training.lora", {"init": "fila"})
    with pytest.raises(UserError, match=r"pretraining forgets nothing: leave training\.lora\.init"):
        load_config(raw)


def test_the_default_is_no_part_of_a_slice() -> None:
    """So results that were made before this key stay."""
    run = {"model": "subject", "method": "sku", "seed": "0"}
    assert '"init"' not in slice_of("acquire", load_config(raw_config()), **run)
    raw = put(raw_config(), "methods.sku.training.lora.init", "fila")
    assert '"init"' in slice_of("acquire", load_config(raw), **run)
