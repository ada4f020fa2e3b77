"""lm-eval itself on the mini subject, and what runs again after an edit of its tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kit.copies import REPO, Copy
from kit.planner import planner
from palimpsest.io.tables import read_table

TASK = "local:mini-questions/test"
TARGET = "results/mini/original/eval.json"
RUN = {"lm_eval mini original 0", "score mini original"}


def overlay(copy: Copy, tasks: dict[str, Any], name: str = "tasks.yaml") -> Path:
    return copy.overlay({"scenarios": {"mini": {"lm_eval": tasks}}}, name)


@pytest.fixture(scope="module")
def asked(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the built folder in which the original model has answered a local task."""
    with planner(built.clone(tmp_path_factory.mktemp("asked") / "repo")) as copy:
        tasks = overlay(copy, {TASK: {"limit": 3}})
        assert copy.dry(TARGET, overlays=[tasks]) == RUN
        copy.env["HF_HUB_OFFLINE"] = "1"
        copy.build(TARGET, overlays=[tasks])
        yield copy


def test_eval_json_has_what_lm_eval_found(asked):
    found = json.loads(asked.path(TARGET).read_text())
    schema = json.loads((REPO / "workflow/schemas/eval.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    task = found["metrics"]["lm_eval"][TASK]
    assert (task["shots"], task["limit"], task["acc"]["n"]) == (0, 3, 3)
    rows = read_table(asked.path("results/mini/original/seed-0/lm_eval.parquet"))[0].to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert task["acc"]["value"] == pytest.approx(sum(row["hit"] for row in rows) / 3)
    # Its time, settings and data are on record.
    assert found["cost"]["wall_s"]["lm_eval"] > 0
    assert found["provenance"]["config"]["lm_eval"]["tasks"] == {TASK: {"limit": 3, "shots": None}}


@pytest.mark.parametrize(
    ("tasks", "jobs"),
    [
        ({TASK: {"limit": 3}}, set()),
        ({TASK: {"limit": 2}}, RUN),
        ({TASK: {"limit": 3, "shots": 1}}, RUN),
        ({TASK: {"limit": 3}, "local:mini-hazards/forget": {}}, RUN),
        ({}, {"score mini original"}),
    ],
    ids=["nothing", "limit", "shots", "another task", "no task"],
)
def test_an_edit_of_the_tasks_runs_lm_eval_and_the_score_alone(asked, tasks, jobs):
    assert asked.dry(TARGET, overlays=[overlay(asked, tasks, "edit.yaml")]) == jobs
