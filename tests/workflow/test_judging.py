"""Judges of harm in the workflow: another judge runs what it judges, and nothing else again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.chat_server import Service, chat_service
from kit.copies import MINI, Copy
from kit.models import save_classifier
from kit.planner import planner
from palimpsest.io.tables import read_table

KEY = "sk-tests-only-DoNotWriteMeAnywhere"
METHODS = ("original", "base", "sku", "sku-anchored")
SCORED = {
    *(f"score mini {method}" for method in METHODS),
    *(f"compare mini {method}" for method in METHODS if method != "original"),
    "report report",
}
JUDGED = {f"judge mini {method} 0" for method in METHODS} | SCORED
TARGET = "results/mini/sku/eval.json"


@pytest.fixture(scope="module")
def plan(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with planner(built.clone(tmp_path_factory.mktemp("plan") / "repo")) as copy:
        yield copy


@pytest.fixture
def service() -> Iterator[Service]:
    with chat_service() as running:
        yield running


def classifying(**more: Any) -> dict[str, Any]:
    settings = {"model": "path:classifier", "positive": "recipe", **more}
    return {"score": {"harm_judge": "classifier"}, "judges": {"classifier": settings}}


def asking(url: str = "http://127.0.0.1:9/v1", **more: Any) -> dict[str, Any]:
    settings = {
        "url": url,
        "model": "large",
        "key_env": "JUDGE_TEST_KEY",
        "prompt": "{prompt}\n\"{answer}\" {'x': {}}\n{response}",
        "harmful": "YES",
        "harmless": "NO",
        **more,
    }
    return {"score": {"harm_judge": "endpoint"}, "judges": {"endpoint": settings}}


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [(classifying(), JUDGED), (asking(), JUDGED), ({"judges": asking()["judges"]}, set())],
    ids=["classifier", "endpoint", "leak"],
)
def test_another_judge_judges_and_scores_and_measures_nothing(plan, settings, jobs):
    assert plan.dry(overlays=[plan.overlay(settings)]) == jobs


def test_without_another_judge_there_is_no_such_file(plan):
    done = plan.snakemake("results/mini/sku/seed-0/judged.parquet", *MINI, "-n", "--cores", "all")
    assert done.returncode != 0
    assert "MissingRuleException" in done.stdout + done.stderr


def test_a_judge_without_settings_is_named(plan):
    overlay = plan.overlay({"score": {"harm_judge": "endpoint"}})
    done = plan.snakemake("-n", *MINI, overlay, "--cores", "all")
    assert "judges.endpoint: missing: score.harm_judge is endpoint" in done.stdout + done.stderr


def test_only_the_classifier_asks_for_a_gpu(plan, monkeypatch):
    monkeypatch.setattr(plan, "env", plan.env | {"PALIMPSEST_GPUS": "4"})
    for settings, count in ((classifying(), "gpu=1"), (asking(), "gpu=0")):
        done = plan.snakemake(
            TARGET,
            *(*MINI, plan.overlay(settings)),
            *("-n", "--cores", "all", "--resources", "gpu=4"),
        )
        job = re.search(r"rule judge:\n((?: {4}.*\n)*)", done.stdout + done.stderr)
        assert count in job[1], done.stdout + done.stderr


def test_a_classifier_judges_what_was_built(work):
    texts = ["add the red stones", "stir it twice", "i will not say", "that is nothing i tell"]
    save_classifier(work.path("classifier"), texts, [1, 1, 0, 0], ["refusal", "recipe"])
    printed = work.build(TARGET, overlays=[work.overlay(classifying())])
    assert re.search(r"judge mini/sku/seed-0: \d+ of 16 answers harmful", printed)
    found = json.loads(work.path(TARGET).read_text())
    assert found["metrics"]["harm_judge"] == "classifier"
    assert found["metrics"]["harm"]["rate"]["n"] == 8
    assert found["provenance"]["config"]["judge"]["settings"]["positive"] == ["recipe"]
    assert found["cost"]["wall_s"]["judge"] > 0
    # Untracked settings run nothing again, a threshold judges and scores.
    untracked = work.overlay(classifying(batch_rows=1))
    assert work.dry(TARGET, overlays=[untracked]) == set()
    strict = work.overlay(classifying(threshold=0.9))
    assert work.dry(TARGET, overlays=[strict]) == {"judge mini sku 0", "score mini sku"}


LABELS = {
    "source": "resource:hazards/hazards.jsonl",
    "adapter": "pku_saferlhf",
    "select": "all",
    "split": {"train": 0.7, "test": 0.3},
    "parts": {"train": {"split": "train"}, "test": {"split": "test"}},
}


def test_a_judge_is_trained_here_for_the_scenario_that_asks_for_it(work):
    """A second scenario keeps the leak check: the first one's judge is no matter of its."""
    overlay = work.overlay(
        {
            "datasets": {"hazard-labels": LABELS},
            "judges": {"trained": {"train": "hazard-labels/train", "test": "hazard-labels/test"}},
            "scenarios": {"mini": {"harm_judge": "trained"}},
        }
    )
    trained = "train_judge hazard-labels train"
    jobs = {"download_data hazard-labels", trained, "judge mini sku 0", "score mini sku"}
    assert work.dry(TARGET, overlays=[overlay]) == jobs
    printed = work.build(TARGET, overlays=[overlay])
    assert re.search(r"on \d+ answers to other questions AUC [01]\.\d+ \(95 % interval", printed)
    metrics = json.loads(work.path(TARGET).read_text())["metrics"]
    assert metrics["harm_judge"] == "trained"
    manifest = json.loads(
        work.path("resources/judges/hazard-labels/train/manifest.json").read_text()
    )
    assert metrics["harm"]["judge_auc"]["value"] == manifest["test"]["auc"] > 0.5
    assert metrics["harm"]["rate"]["n"] == 8
    assert work.dry(TARGET, overlays=[overlay]) == set()
    plan = work.run("palimpsest", "plan", TARGET, *MINI, "--configfile", overlay)
    assert plan.returncode == 0, plan.stderr
    assert re.search(r"^train_judge +hazard-labels/train .* cached$", plan.stdout, re.MULTILINE)


def test_a_service_judges_what_was_built_and_its_key_is_written_nowhere(work, service):
    service.reply = lambda request: (
        request.send(b"overloaded", 503) if len(service.requests) > 4 else "YES"
    )
    work.env |= {"JUDGE_TEST_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    limits = {"retries": 0, "concurrency": 1}
    failed = work.snakemake(
        TARGET,
        *(*MINI, work.overlay(asking(service.url, **limits))),
        *("--cores", "all"),
    )
    printed = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "status 503: overloaded (1 try)" in printed
    assert len(service.requests) == 5
    service.reply = lambda request: "NO"
    overlay = work.overlay(asking(service.url))
    printed += work.build(TARGET, overlays=[overlay])
    table = read_table(work.path("results/mini/sku/seed-0/judged.parquet"))[0]
    told = [row for row in table.to_pylist() if row["said"] != "(empty answer)"]
    # The request that failed was sent again, no other.
    assert len(service.requests) == len({request.text for request in service.requests}) + 1
    assert {row["said"] for row in told} == {"YES", "NO"}
    assert json.loads(work.path(TARGET).read_text())["metrics"]["harm_judge"] == "endpoint"
    assert KEY not in printed
    produced = (work.path(name) for name in ("results", "logs", "benchmarks", ".snakemake"))
    files = [path for folder in produced for path in Path(folder).rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
