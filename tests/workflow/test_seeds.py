"""Several seeds of one method."""

from __future__ import annotations

import json

import pytest

ADAPTER = "results/mini/sku/seed-{}/acquired/adapter_model.safetensors"


@pytest.mark.slow
def test_seeds_differ_and_are_summed_up(built, work):
    overlay = work.overlay({"methods": {"sku": {"seeds": [0, 1]}}})
    work.build("results/mini/sku/eval.json", overlays=[overlay])
    first, second = (work.path(ADAPTER.format(seed)).read_bytes() for seed in (0, 1))
    assert first != second
    assert first == built.path(ADAPTER.format(0)).read_bytes()
    found = json.loads(work.path("results/mini/sku/eval.json").read_text())
    assert found["provenance"]["seeds"] == [0, 1]
    perplexity = found["metrics"]["forget"]["perplexity"]
    assert perplexity["sd"] > 0
    assert len(perplexity["per_seed"]) == 2
    assert len(set(perplexity["per_seed"])) == 2
    adapters = [f"seed-{seed}/model/adapter_model.safetensors" for seed in (0, 1)]
    hashes = [found["provenance"]["model"][name] for name in adapters]
    assert len(set(hashes)) == 2
