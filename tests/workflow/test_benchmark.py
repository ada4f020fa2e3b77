"""TOFU's preset on the embedded model with 16 of its rows, from data to forget quality."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kit.copies import MINI, Copy
from palimpsest.io.sealed import read_document
from palimpsest.metrics.schema import eval_schema

ROWS = Path(__file__).parents[1] / "kit/tofu"
DATA = {
    "slice-forget": ("forget", {"all": {}}),
    "slice-rest": ("retain", {"all": {"rows": [0, 2]}}),
    "slice-retain": ("retain", {"all": {"rows": [2, 4]}}),
    "slice-authors": ("real_authors", {"all": {}}),
    "slice-facts": ("world_facts", {"all": {}}),
}
"""Data set -> its file, and its parts."""


def overlay() -> dict[str, Any]:
    """TOFU's scenario of few rows; a published log stands for `retrained`."""
    datasets = {
        name: {"source": f"path:tofu/{file}.json", "adapter": "tofu", "parts": parts}
        for name, (file, parts) in DATA.items()
    }
    scenario: dict[str, Any] = {
        "forget": "slice-forget/all",
        "retain": "slice-rest/all",
        "evaluate": {
            "forget": "slice-forget/all",
            "retain": "slice-retain/all",
            "general": "slice-authors/all",
            "further": {"world_facts": {"part": "slice-facts/all", "of": "general"}},
            "asked": {"retain": {"max_new_tokens": 4, "stop": ["."]}},
        },
        "validate_on": {"forget": "slice-forget/all", "retain": "slice-rest/all"},
    }
    model = {
        "base": "smollm2-135m",
        "scenario": "slice",
        "like": "mini",
        "reference": {"rows": "path:tofu/log.json"},
    }
    return {
        "datasets": datasets,
        "scenarios": {"slice": scenario},
        "models": {"mini-tofu": model},
        "measure": {"generation": {"max_new_tokens": 8}},
    }


@pytest.fixture(scope="module")
def results(checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy: Copy = checkout(tmp_path_factory.mktemp("benchmark"))
    shutil.copytree(ROWS, copy.path("tofu"))
    ratios = {str(i): {"score": 0.5 + i / 10} for i in range(6)}
    log = {"forget_truth_ratio": {"value_by_index": ratios}}
    copy.path("tofu/log.json").write_text(json.dumps(log), encoding="utf-8")
    copy.path("mine.yaml").write_text(yaml.safe_dump(overlay()), encoding="utf-8")
    files = [MINI[1], "config/benchmarks/tofu.yaml", "mine.yaml"]
    target = "results/mini-tofu/gradient_ascent/compare.json"
    done = copy.snakemake(target, "--configfile", *files, "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    return copy.path("results/mini-tofu")


def test_model_utility_is_of_nine_means_and_all_of_them_are_there(results: Path) -> None:
    found = read_document(results / "gradient_ascent/eval.json")
    jsonschema.validate(found, eval_schema())
    metrics = found["metrics"]
    facts = metrics["further"]["general/world_facts"]
    assert (metrics["general"]["rouge_l"]["n"], facts["rouge_l"]["n"]) == (3, 3)
    utility = metrics["utility"]["model_utility"]
    assert utility["n"] == 2 + 3 + 3
    assert utility["value"] is not None
    for block in (metrics["forget"], metrics["retain"], metrics["general"], facts):
        assert 0 <= block["truth_ratio"]["value"] <= 1


def test_forget_quality_is_against_the_published_log(results: Path) -> None:
    quality = read_document(results / "gradient_ascent/compare.json")["forget_quality"]
    assert quality["n"] == [6, 6]
    assert 0 < quality["p"] <= 1
    assert math.isclose(quality["log10_p"], math.log10(quality["p"]), rel_tol=1e-6)
