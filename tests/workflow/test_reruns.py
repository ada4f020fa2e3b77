"""Editing a value runs exactly the stages that depend on it, and nothing else does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.copies import Copy
from kit.planner import planner

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
def plan(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the built folder that tests only plan in; they undo their edits."""
    with planner(built.clone(tmp_path_factory.mktemp("plan") / "repo")) as copy:
        yield copy


@pytest.fixture
def edited(plan: Copy) -> Copy:
    """The same for edits of the library: each plan imports what it finds."""
    return Copy(plan.folder, plan.env)


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


def test_new_dates_of_sources_do_not_count(edited):
    for folder in ("Snakefile", "config", "workflow", "src", "profiles", "resources/hazards"):
        for path in (edited.path(folder), *edited.path(folder).rglob("*")):
            path.touch()
    assert edited.dry() == set()


def test_new_words_in_a_library_file_do_not_count_but_a_new_version_does(edited):
    slices = edited.path("src/palimpsest/pipeline/stages.py")
    text = slices.read_text()
    try:
        slices.write_text(text + "\n# a comment\n")
        assert edited.dry() == set()
        slices.write_text(re.sub(r"(class Acquire.*?version = )\d+", r"\g<1>99", text, flags=re.S))
        assert edited.dry() == BOTH | {"report report"}
    finally:
        slices.write_text(text)


HAZARDS = {"download_data mini-hazards"} | tokenized("mini-hazards") | TAUGHT

SOURCES: list[tuple[str, str, str, set[str]]] = [
    ("resources/hazards/hazards.jsonl", r"\Z", "\n", HAZARDS),
    # A method's file, and what it imports from its package; pretraining is an objective, too.
    ("src/palimpsest/objectives/sku.py", r"\Z", "\nSHIFT = 1\n", BOTH),
    ("src/palimpsest/objectives/means.py", r"\Z", "\nSHIFT = 1\n", BOTH),
    ("src/palimpsest/objectives/rmu.py", r"\Z", "\nSHIFT = 1\n", set()),
    ("src/palimpsest/objectives/teaching.py", r"\Z", "\nSHIFT = 1\n", TAUGHT),
    ("src/palimpsest/objectives/sku.py", r"\Z", "\n# A comment.\n", set()),
    ("src/palimpsest/objectives/sku.py", r'\A"""', '"""Words. ', set()),
    ("src/palimpsest/data/adapters/pku_saferlhf.py", r"\Z", "\nSHIFT = 1\n", HAZARDS),
    ("src/palimpsest/metrics/measures/text.py", r"\Z", "\nSHIFT = 1\n", ALL_SCORED),
    ("src/palimpsest/metrics/matching.py", r"\Z", "\nSHIFT = 1\n", ALL_SCORED),
    ("src/palimpsest/judges/leak.py", r"\Z", "\nSHIFT = 1\n", ALL_SCORED),
]


@pytest.mark.parametrize(
    ("file", "where", "text", "expected"), SOURCES, ids=[f"{f} {t!r}" for f, _, t, _ in SOURCES]
)
def test_an_edited_file_runs_exactly_what_reads_it(edited, file, where, text, expected):
    path = edited.path(file)
    before = path.read_text()
    try:
        path.write_text(re.sub(where, lambda _: text, before))
        assert edited.dry() == expected
    finally:
        path.write_text(before)


@pytest.mark.slow
def test_an_edited_file_of_the_user_s_is_noticed(work):
    shutil.copy(work.path("resources/hazards/hazards.jsonl"), work.path("mine.jsonl"))
    source = {"source": "path:mine.jsonl"}
    overlay = work.overlay({"datasets": {"mini-hazards": source}})
    manifest = "resources/datasets/mini-hazards/manifest.json"
    work.build(manifest, overlays=[overlay])
    assert work.dry(manifest, overlays=[overlay]) == set()
    with open(work.path("mine.jsonl"), "a") as file:
        file.write("\n")
    assert work.dry(manifest, overlays=[overlay]) == {"download_data mini-hazards"}
    work.path("mine.jsonl").unlink()
    assert work.dry(manifest, overlays=[overlay]) == set(), "what was made of it stands"


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
