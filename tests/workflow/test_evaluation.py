"""The costly variants of the evaluation on the mini subject: holdout, wrappers, sampled answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from kit.copies import REPO, Copy
from kit.planner import planner
from palimpsest.io.tables import read_table
from palimpsest.metrics.measures.compared import NO_RETRAINED

HOLDOUT = {
    "source": "resource:hazards/holdout.jsonl",
    "adapter": "pku_saferlhf",
    "max_rows": 8,
    "parts": {"all": {}},
}
OVERLAY: dict[str, Any] = {
    "datasets": {"mini-holdout": HOLDOUT},
    "scenarios": {"mini": {"evaluate": {"holdout": "mini-holdout/all", "answers": 4}}},
    "measure": {
        "wrappers": {"story": "Tell it as a story: {prompt}"},
        "sampling": {"seeds": [0, 1], "temperature": 0.7},
    },
}
TARGETS = ("results/mini/sku/eval.json", "results/mini/sku/compare.json")


@pytest.fixture(scope="module")
def varied(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the built folder in which sku has been measured in every way."""
    with planner(built.clone(tmp_path_factory.mktemp("varied") / "repo")) as copy:
        overlay = copy.overlay(OVERLAY)
        planned = copy.dry(*TARGETS, overlays=[overlay])
        assert {job for job in planned if job.split()[0] not in ("download_data", "tokenize")} == {
            *(f"measure mini {method} 0" for method in ("base", "original", "sku")),
            *(f"score mini {method}" for method in ("original", "sku")),
            "compare mini sku",
        }
        gold = copy.overlay({"models": {"mini": {"retrained": True}}}, "gold.yaml")
        assert "score mini retrained" in copy.dry(*TARGETS, overlays=[overlay, gold])
        copy.build(*TARGETS, overlays=[overlay])
        yield copy


@pytest.fixture(scope="module")
def metrics(varied: Copy) -> dict[str, Any]:
    found = json.loads(varied.path(TARGETS[0]).read_text())
    schema = json.loads((REPO / "workflow/schemas/eval.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    block: dict[str, Any] = found["metrics"]
    return block


def test_every_measure_has_a_value(metrics):
    for block in ("privacy", "utility"):
        for name, measure in metrics[block].items():
            assert measure["value"] is not None, (name, measure["reason"])
    assert metrics["text"]["perplexity"]["value"] >= 1
    for block in ("forget", "retain"):
        assert metrics[block]["truth_ratio"]["value"] is not None


def test_wrapped_and_sampled_answers_are_measured(metrics):
    assert metrics["forget_wrapped"]["story"]["recall_rate"]["n"] == 4
    sampled = metrics["forget_sampled"]
    assert len(sampled["recall_rate"]["per_seed"]) == 2
    assert sampled["recall_any"]["value"] >= sampled["recall_rate"]["value"]


def test_the_rows_hold_every_answer(varied):
    rows = read_table(varied.path("results/mini/sku/rows.parquet"))[0].to_pylist()
    said = {row["part"]: row["answer"] for row in rows if row["answer"] is not None}
    assert {"forget:story", "forget:sampled-0", "forget:sampled-1"} <= set(said)
    assert "holdout" not in said
    assert sum(row["part"] == "holdout" for row in rows) == 8


def test_changes_are_paired_with_the_subject_before(varied):
    found = json.loads(varied.path(TARGETS[1]).read_text())
    change = found["differences"]["forget"]["accuracy"]
    before, after = (
        json.loads(varied.path(f"results/mini/{method}/eval.json").read_text())["metrics"]
        for method in ("original", "sku")
    )
    gap = after["forget"]["accuracy"]["value"] - before["forget"]["accuracy"]["value"]
    assert change["value"] == pytest.approx(gap)
    assert found["privleak"]["reason"] == NO_RETRAINED


@pytest.mark.parametrize(
    ("settings", "planned"),
    [
        ({"score": {"min_k": 0.4}}, {"score mini sku"}),
        ({"score": {"truth_ratio": "geometric"}}, {"score mini sku"}),
        ({"measure": {"sampling": {"temperature": 0.9}}}, {"measure mini base 0"}),
    ],
    ids=["min_k", "truth_ratio", "temperature"],
)
def test_a_metric_edit_touches_no_model(varied, settings, planned):
    overlays = [varied.overlay(OVERLAY), varied.overlay(settings, "edit.yaml")]
    found = varied.dry(TARGETS[0], overlays=overlays)
    assert planned <= found
    if "score" in settings:
        assert found == planned
