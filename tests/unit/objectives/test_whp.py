"""WHP: generic logits and labels, the loss by hand, what the stage reads and marks."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import jobs, methods
from kit import models as tiny
from kit.by_hand import RELABELLED, near, stream, terms
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.engine.kernels import head as heads
from palimpsest.errors import UserError
from palimpsest.io.artifacts import HAZARDOUS, MANIFEST
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import ACQUIRED, mark
from palimpsest.model import delta
from palimpsest.model.adapter import updates_of, write_adapter
from palimpsest.pipeline.results import jobs_of, slices_behind
from palimpsest.pipeline.stages import Examples
from palimpsest.pipeline.targets import unsuited
from palimpsest.stages.examples import read_examples

V = torch.arange(11, dtype=torch.float64)
DOWN = "model.layers.2.mlp.down_proj.weight"


def test_the_golden_logits() -> None:
    base, more = 2 * (0.4 * V).sin(), (1.1 * V).cos()
    found = heads.generic_logits(base, base + more, 5)
    assert found.tolist() == pytest.approx(
        [-5, -1.48914392251, 1.4347121818, 1.86407817193, 1.99914720608, -1.7247540178,
         -3.40023659869, -0.0968930098775, -0.116748286855, -0.88504088659, -1.53573348056],
        rel=1e-9,
    )  # fmt: skip


def test_only_what_the_reinforced_model_is_surer_of_is_taken_off() -> None:
    base = torch.randn(4, 11, dtype=torch.float64)
    assert torch.equal(heads.generic_logits(base, base - 1, 5), base)
    half = base.bfloat16()
    assert heads.generic_logits(half, half, 5).dtype == torch.float32


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_labels_are_ordinary_tokens_whatever_the_chunk(chunk: int | None) -> None:
    torch.manual_seed(0)
    base, more = torch.randn(2, 7, 11, dtype=torch.float64)
    excluded = torch.tensor([0, 4, 9])
    found = heads.generic(base, more, lambda h: h, excluded, 5.0, chunk)
    logits = heads.generic_logits(base, more, 5.0)
    logits[:, excluded] = -torch.inf
    assert torch.equal(found, logits.argmax(-1))


def test_the_loss_is_the_mean_cost_of_the_labels() -> None:
    """2, 1 and 2 bits: tokens count alike, whoever's row they are in."""
    assert terms("whp", {"forget": stream(*RELABELLED)}) == near(forget=5 / 3)


def acquired(folder: Path, kind: str) -> dict[str, Tensor]:
    """Write a task vector for `tiny.llama`; weights of the reinforced model that differ."""
    model, _ = tiny.with_lora(tiny.llama(torch.float32))
    mark(folder, [ACQUIRED])
    if kind == "adapter":
        write_adapter(folder, updates_of(model, "acquired"), folder)
        files = ["adapter_model.safetensors", "adapter_config.json"]
        merged = model.merge_and_unload()
        changed = {n: p.detach() for n, p in merged.named_parameters() if "proj" in n}
    else:
        noise = torch.randn(tiny.WIDTH, tiny.WIDTH * 2, generator=torch.Generator().manual_seed(3))
        weight = tiny.llama(torch.float32).get_parameter(DOWN)
        value = 0.3 * noise[: weight.shape[0], : weight.shape[1]]
        delta.write_deltas(folder, {DOWN: value})
        files, changed = ["delta.safetensors"], {DOWN: weight + value}
    write_manifest(folder, files, hazardous=[ACQUIRED])
    return changed


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_the_stage_labels_as_two_whole_models_do(tmp_path: Path, kind: str) -> None:
    work = jobs.Work(tmp_path)
    tiny.save_base(work.base, tiny.llama(torch.float32))
    end = torch.tensor([tiny.EOS])
    forget = [replace(r, ids=torch.cat([r.ids[:-1], end])) for r in methods.SETS["forget"]]
    tiny.save_tokens(work.tokens / "set", {"forget": forget})
    work.subject.mkdir()
    write_manifest(work.subject, [])
    changed = acquired(work.at("acquired"), kind)
    settings = {
        "algorithm": "whp",
        "steps": 1,
        "generic": {"alpha": 2.0},
        "training": {"optimizer": {"learning_rate": 1.0}},
    }
    config = {**jobs.LOAD, "settings": {**settings, "end_token": True}, "seed": 0}
    out = work.run(Examples, "examples", {**config, "sets": {"forget": "set/forget"}})
    rows = {row.id: row for row in read_examples(out, "forget")}
    subject, more = tiny.llama(torch.float32), tiny.llama(torch.float32)
    for name, value in changed.items():
        more.get_parameter(name).data = value
    differing = 0
    for row in forget:
        with torch.no_grad():
            v, u = (model(row.ids[None]).logits[0].double() for model in (subject, more))
        generic = v - 2 * (u - v).clamp(min=0)
        generic[:, [0, tiny.EOS]] = -torch.inf
        expected = generic[row.prompt_length - 1 : -1].argmax(-1)
        expected[-1] = tiny.EOS  # the model shall not learn to go on
        assert torch.equal(rows[row.id].targets, expected)
        assert torch.equal(rows[row.id].ids, row.ids)
        v[:, [0, tiny.EOS]] = -torch.inf
        differing += (expected != v[row.prompt_length - 1 : -1].argmax(-1))[:-1].sum().item()
    assert differing > 0, "the reinforced model counts"
    # They show what the reinforced model is surer of.
    assert read_manifest(out, MANIFEST)["hazardous"] == [ACQUIRED]
    assert ACQUIRED in (out / HAZARDOUS).read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def with_whp(**over: Any) -> dict[str, Any]:
    training = {"optimizer": {"learning_rate": 1e-4}}
    whp = {"algorithm": "whp", "steps": 10, "training": training, "generic": {"vector": "sku"}}
    return put(raw_config(), "methods.whp", {**whp, **over})


@pytest.mark.parametrize(("vector", "seed"), [("sku/seed-1", "1"), ("sku", "4")])
def test_the_vector_is_made_before_the_labels_and_recorded(vector: str, seed: str) -> None:
    cfg = load_config(with_whp(generic={"vector": vector}, seeds=[4]))
    found = [(s.name(), w) for s, w in jobs_of(cfg, "subject", "whp", 4)]
    names = [name for name, _ in found]
    assert names.index("acquire") < names.index("examples")
    assert dict(found)["acquire"] == {"model": "subject", "method": "sku", "seed": seed}
    assert '"acquire sku"' in slices_behind(cfg, "subject", "whp")


@pytest.mark.parametrize("vector", ["skuu", "whp", "skuu/seed-1"])
def test_a_vector_that_no_method_makes_is_refused(vector: str) -> None:
    with pytest.raises(UserError, match=r"methods\.whp.*reads the task vector of '(skuu|whp)'"):
        load_config(with_whp(generic={"vector": vector}))
    raw = put(with_whp(), "models.subject.methods.whp", {"generic": {"vector": vector}})
    with pytest.raises(UserError, match=r"models\.subject.*reads the task vector of"):
        load_config(raw)


def test_a_vector_of_a_method_that_does_not_suit_the_subject_is_refused() -> None:
    sku = {"preservation": {"general": True}}
    raw = put(with_whp(), "models.subject.methods.sku", sku)
    fault = unsuited(load_config(raw), "subject", "whp")
    assert fault is not None
    assert "reads the task vector of 'sku': method 'sku' reads general rows" in fault
