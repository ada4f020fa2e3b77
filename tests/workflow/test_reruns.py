"""Editing a value runs exactly the stages that depend on it, and nothing else does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.copies import Copy

METHODS = ("sku", "sku-anchored")
DATASETS = ("mini-general", "mini-hazards", "mini-questions")


def made(method: str) -> set[str]:
    return {f"acquire mini {method} 0", f"sweep mini {method} 0", *negated(method)}


def negated(method: str) -> set[str]:
    return {f"negate mini {method} 0", *measured(method)}


def measured(method: str) -> set[str]:
    return {f"measure mini {method} 0", f"score mini {method}", *compared(method)}


def compared(method: str) -> set[str]:
    return {f"compare mini {method}", "report report"}


def tokenized(*datasets: str) -> set[str]:
    return {f"tokenize smollm2-135m {dataset}" for dataset in datasets}


BOTH = made("sku") | made("sku-anchored")
REFERENCES = ("original", "base")
"""What the report shows beside its methods."""
COMPARED = compared("base") | compared("sku") | compared("sku-anchored")
ALL_SCORED = {f"score mini {method}" for method in (*REFERENCES, *METHODS)} | COMPARED
ALL_MEASURED = {f"measure mini {method} 0" for method in (*REFERENCES, *METHODS)} | ALL_SCORED
TAUGHT = (
    {"pretrain mini", "reference mini mini-questions train states", "describe mini original"}
    | BOTH
    | ALL_MEASURED
)
SWEPT = {f"sweep mini {method} 0" for method in METHODS}


@pytest.fixture(scope="module")
def plan(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the built folder that tests only plan in; they undo their edits."""
    return built.clone(tmp_path_factory.mktemp("plan") / "repo")


def nested(place: str, value: Any) -> dict[str, Any]:
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


LORA = {"optimizer": {"learning_rate": 1e-3}}
TRAINING = "models.mini.methods.sku.training"
EDITS: list[tuple[str, Any, set[str]]] = [
    ("scenarios.mini.pretrain.training.optimizer.learning_rate", 3e-3, TAUGHT),
    # sku-anchored is like sku, in the catalog and in the subject.
    (f"{TRAINING}.optimizer.learning_rate", 3e-3, BOTH),
    ("methods.sku.preservation.sign", 1, made("sku")),
    ("methods.sku.scale", 0.5, negated("sku") | negated("sku-anchored")),
    ("models.mini.methods.sku-anchored.scale", 0.5, negated("sku-anchored")),
    ("score.bootstrap", 500, ALL_SCORED),
    ("measure.generation.max_new_tokens", 9, ALL_MEASURED | SWEPT),
    ("sweep.scales", [0.0, 1.0], SWEPT | {"report report"}),
    ("report.examples", 5, {"report report"}),
    ("methods.sku.title", "Another name", {"report report"}),
    ("bases.smollm2-135m.template.response", " {response}", tokenized(*DATASETS) | TAUGHT),
    (
        "datasets.mini-questions.split_seed",
        7,
        {"download_data mini-questions"} | tokenized("mini-questions") | TAUGHT,
    ),
    ("models.another", {"base": "smollm2-135m", "scenario": "mini"}, set()),
    ("methods.another", {"algorithm": "sku", "steps": 6, "training": LORA}, set()),
    ("methods.sku.seeds", [0, 1], {re.sub("(sku.*) 0$", r"\1 1", job) for job in BOTH}),
    # What changes no result runs nothing again.
    (f"{TRAINING}.checkpoint_seconds", 5, set()),
    ("scenarios.mini.pretrain.training.checkpoint_seconds", 5, set()),
    ("measure.batch_tokens", 512, set()),
    ("bases.smollm2-135m.memory_mb", 5000, set()),
    ("bases.smollm2-135m.runtime_minutes", 31, set()),
    (f"{TRAINING}.optimizer.learning_rate", "0.002", set()),
    (f"{TRAINING}.optimizer.learning_rate", "2.0e-3", set()),
]


@pytest.mark.parametrize(
    ("place", "value", "expected"), EDITS, ids=[f"{p}={v}" for p, v, _ in EDITS]
)
def test_an_edit_runs_exactly_what_depends_on_it(plan, place, value, expected):
    overlay = plan.overlay(nested(place, value))
    assert plan.dry(overlays=[overlay]) == expected


def test_two_numbers_that_swap_their_places_are_seen(plan):
    # steps 6 and rank 8 become steps 8 and rank 6: the same numbers, another training.
    settings = {"steps": 8, "training": {"lora": {"rank": 6}}}
    overlay = plan.overlay(nested("models.mini.methods.sku", settings))
    assert plan.dry(overlays=[overlay]) == BOTH


def test_nothing_runs_again_for_the_same_command(plan):
    assert plan.dry() == set()


def test_the_order_of_keys_and_comments_do_not_count(plan, tmp_path):
    kept = shutil.copytree(plan.path("config"), tmp_path / "config")
    for path in plan.path("config").rglob("*.yaml"):
        text = yaml.safe_dump(reversed_keys(yaml.safe_load(path.read_text())), sort_keys=False)
        path.write_text(f"# rewritten\n{text}")
    try:
        assert plan.dry() == set()
    finally:
        shutil.copytree(kept, plan.path("config"), dirs_exist_ok=True)


def reversed_keys(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: reversed_keys(node[key]) for key in reversed(node)}
    return node


def test_new_dates_of_sources_do_not_count(plan):
    for folder in ("Snakefile", "config", "workflow", "src", "profiles", "resources/hazards"):
        for path in (plan.path(folder), *plan.path(folder).rglob("*")):
            path.touch()
    assert plan.dry() == set()


def test_new_words_in_a_library_file_do_not_count_but_a_new_version_does(plan):
    slices = plan.path("src/palimpsest/pipeline/stages.py")
    text = slices.read_text()
    try:
        slices.write_text(text + "\n# a comment\n")
        assert plan.dry() == set()
        slices.write_text(re.sub(r"(class Acquire.*?version = )\d+", r"\g<1>99", text, flags=re.S))
        assert plan.dry() == BOTH | {"report report"}
    finally:
        slices.write_text(text)


def test_new_content_of_a_shipped_file_counts(plan):
    shipped = plan.path("resources/hazards/hazards.jsonl")
    text = shipped.read_text()
    try:
        shipped.write_text(text + "\n")
        expected = {"download_data mini-hazards"} | tokenized("mini-hazards") | TAUGHT
        assert plan.dry() == expected
    finally:
        shipped.write_text(text)


@pytest.mark.parametrize("record", [True, False], ids=["with .snakemake", "without .snakemake"])
def test_a_fresh_clone_beside_copied_results_runs_nothing(built, checkout, tmp_path, record):
    fresh = checkout(tmp_path)
    shutil.rmtree(fresh.path(".snakemake"))
    produced = ["results", "resources/datasets", "resources/tokens", "logs", "benchmarks"]
    for name in [*produced, ".snakemake"] if record else produced:
        shutil.copytree(built.path(name), fresh.path(name))
    assert newest(fresh.path("config")) > newest(fresh.path("results"))
    assert fresh.dry() == set()


def newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.rglob("*"))
