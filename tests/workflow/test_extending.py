"""The examples of docs/extending.md, taken from the page: each alone in a working copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kit.copies import REPO, Copy
from kit.examples import PAGE, examples
from palimpsest.io.tables import read_table

EXAMPLES = examples()
MOST = {"A method": 3, "A measure": 2, "A data adapter": 3, "An attack": 3, "A stage": 5}
"""Files that an example may touch; those that a command writes are not counted."""

FENCES = "```"


@pytest.fixture
def followed(built: Copy, tmp_path: Path) -> Callable[[str], tuple[Copy, str]]:
    """A function that does what an example says; returns the copy and what its commands printed."""

    def follow(title: str) -> tuple[Copy, str]:
        copy = built.clone(tmp_path / "repo")
        for name in ("bench", "docs", "tests"):
            shutil.copytree(REPO / name, copy.path(name), ignore=shutil.ignore_patterns("__pyc*"))
        shutil.copy(REPO / "pyproject.toml", copy.folder)
        # Its tests have a temporary folder of their own and are no part of this session.
        copy.env |= {
            "PYTEST_ADDOPTS": "",
            "PYTEST_DEBUG_TEMPROOT": str(tmp_path),
            "PYTEST_XDIST_WORKER_COUNT": "1",
        }
        EXAMPLES[title].apply(copy.folder)
        printed = ""
        for command in EXAMPLES[title].commands:
            done = copy.run(*command.split())
            printed += done.stdout + done.stderr
            assert done.returncode == 0, f"{command}\n{printed}"
        return copy, printed

    return follow


def read(copy: Copy, name: str) -> dict[str, Any]:
    """A JSON file below ``results/``."""
    return dict(json.loads(copy.path(f"results/{name}").read_text(encoding="utf-8")))


@pytest.mark.parametrize("title", MOST)
def test_an_example_touches_few_files(title: str) -> None:
    files = [change.file for change in EXAMPLES[title].changes]
    assert len(set(files)) == len(files) <= MOST[title]
    assert any(file.startswith("tests/") for file in files)


def test_every_block_of_the_page_is_part_of_an_example() -> None:
    blocks = PAGE.read_text(encoding="utf-8").count(FENCES) // 2
    assert blocks == sum(len(e.changes) + bool(e.commands) for e in EXAMPLES.values())
    assert set(EXAMPLES) == set(MOST)


def test_the_examples_are_formatted_as_the_rest(tmp_path: Path) -> None:
    for example in EXAMPLES.values():
        for change in example.changes:
            path = tmp_path / change.file
            path.parent.mkdir(parents=True, exist_ok=True)
            if change.how != "New file" and not path.exists():
                shutil.copy(REPO / change.file, path)
            change.apply(tmp_path)
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    copy = Copy(tmp_path)
    for command in ("ruff check", "ruff format --check", "snakefmt --check Snakefile workflow"):
        done = copy.run(*command.split())
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_method_trains_against_the_subject_s_costs(followed: Callable[..., Any]) -> None:
    copy, _ = followed("A method")
    log = copy.path("results/mini/apo_zero/seed-0/model/train.jsonl").read_text().splitlines()
    # Before the first step the model is the subject: 1/2, but for rounding in bf16.
    assert json.loads(log[0])["terms"]["forget"] == pytest.approx(0.5, rel=1e-3)
    before, after = (
        read(copy, f"mini/{method}/eval.json")["metrics"]["forget"]["perplexity"]["value"]
        for method in ("original", "apo_zero")
    )
    assert after > 1.002 * before


@pytest.mark.slow
def test_a_measure_needs_no_model(followed: Callable[..., Any]) -> None:
    copy, printed = followed("A measure")
    assert "rule score:" in printed
    assert "rule measure:" not in printed
    result = read(copy, "mini/original/eval.json")
    assert result["metrics"]["forget"]["answer_words"]["value"] > 0
    schema = json.loads(copy.path("workflow/schemas/eval.schema.json").read_text(encoding="utf-8"))
    assert "answer_words" in schema["$defs"]["part"]["required"]
    jsonschema.validate(result, schema)


@pytest.mark.slow
def test_a_data_adapter_brings_a_subject(followed: Callable[..., Any]) -> None:
    copy, _ = followed("A data adapter")
    metrics = read(copy, "quiz/original/eval.json")["metrics"]
    assert metrics["forget"]["truth_ratio"]["n"] == 8, "wrong choices are wrong answers"
    assert metrics["retain"]["perplexity"]["value"] > 1
    keys = copy.path("docs/keys.md").read_text(encoding="utf-8")
    assert "### `adapter: multiple_choice`" in keys


@pytest.mark.slow
def test_an_attack_is_a_job_of_its_own(followed: Callable[..., Any]) -> None:
    copy, printed = followed("An attack")
    assert "rule attack:" in printed
    folder = "results/mini/original/seed-0/attacks"
    table = read_table(copy.path(f"{folder}/mistyped.parquet"))[0].to_pandas()
    forget = table[table["part"] == "forget"]
    assert sorted(forget["seed"]) == [0] * 8 + [1] * 8
    assert forget["id"].nunique() == 8
    assert set(forget["value"]) <= {0.0, 1.0}
    assert set(table["part"]) == {"forget", "retain"}
    assert read(copy, "mini/original/seed-0/attacks/mistyped.json")["level"] == "text"
    keys = copy.path("docs/keys.md").read_text(encoding="utf-8")
    assert "### `kind: mistyped`" in keys


@pytest.mark.slow
def test_a_stage_is_planned_and_run(followed: Callable[..., Any]) -> None:
    copy, printed = followed("A stage")
    planned = [line for line in printed.splitlines() if line.startswith("movement ")]
    assert "mini/sku" in planned[0], "a line of the plan"
    assert planned[0].endswith("missing")
    assert "| `movement` |" in copy.path("docs/stages.md").read_text(encoding="utf-8")
    norms = read(copy, "mini/sku/seed-0/movement.json")["norms"]
    moved = {name for name, norm in norms.items() if norm > 1e-6}
    # The subject's adapter has a module that the method's has not.
    assert moved == {name for name in norms if name.endswith(("q_proj", "v_proj"))} != set(norms)
