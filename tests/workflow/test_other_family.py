"""The whole chain on another architecture than Llama, and its subject as one's own adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kit.copies import Copy
from kit.families import FAMILIES, NEOX
from palimpsest.io.tables import read_table

FOLDER = "tiny-neox"

LORA: dict[str, Any] = {"training": {"lora": {"first_layer": 0}}}


def settings(**models: Any) -> dict[str, Any]:
    """The mini configuration on a random GPT-NeoX that has the embedded model's tokenizer."""
    modules = {key: value for key, value in NEOX.model_dump().items() if key != "embeddings"}
    base = {
        "source": f"path:{FOLDER}",
        "dtype": "float32",
        "modules": {**modules, "embeddings": ["gpt_neox.embed_in", "embed_out"]},
    }
    subject = {"base": "tiny-neox", "defaults": LORA}
    return {
        "bases": {"tiny-neox": base},
        "scenarios": {"mini": {"pretrain": LORA}},
        "models": {"mini": subject, **models},
    }


def save_base(folder: Path, tokenizer_of: Path) -> None:
    """A random GPT-NeoX of four blocks."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    keys = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    family = FAMILIES["neox"]
    keys = {**family.keys, **keys, "max_position_embeddings": 256}
    type(family)(family.config, keys).model(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_the_chain_runs_on_another_family(
    checkout: Any, embedded_model: Path, tmp_path: Path
) -> None:
    copy: Copy = checkout(tmp_path)
    save_base(copy.path(FOLDER), embedded_model)
    overlay = copy.overlay(settings())
    targets = [
        "results/mini/sku/eval.json",
        "results/mini/sku/seed-0/merged/manifest.json",
        "results/mini/original/seed-0/measure.json",
    ]
    copy.build(*targets, overlays=[overlay])
    found = json.loads(copy.path(targets[0]).read_text())["metrics"]
    assert found["forget"]["perplexity"]["value"] > 1
    merged = copy.path("results/mini/sku/seed-0/merged")
    model, report = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert type(model).__name__ == "GPTNeoXForCausalLM"
    assert not report["missing_keys"]
    # The subject's adapter, as somebody else would have it, in place of pretraining.
    given = {"base": "tiny-neox", "scenario": "mini", "adapter": "path:results/mini/subject"}
    overlay = copy.overlay(settings(given={**given, "defaults": LORA}))
    target = "results/given/original/seed-0/measure.json"
    assert copy.dry(target, overlays=[overlay]) == {
        "pretrain given",
        "describe given original",
        "measure given original 0",
    }
    copy.build(target, overlays=[overlay])
    one, other = (
        read_table(copy.path(f"results/{name}/original/seed-0/likelihood.parquet"))[0]
        for name in ("mini", "given")
    )
    assert one.column("logprob").equals(other.column("logprob"))
