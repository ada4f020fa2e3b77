"""What is sent to a tracker: curves of finished and running trainings, and results; no text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.commands import track
from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.tracking import open_run, record


def line(step: int, loss: float, **more: Any) -> str:
    return json.dumps({"step": step, "loss": loss, "terms": {"forget": -loss}, "lr": 0.1, **more})


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of a method: seed 0 is finished, seed 1 is training."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/mini/npo"
    for part, text in (
        ("seed-0/model", f"{line(1, 3.0)}\n{line(2, 2.0, grad_norm=0.5)}\n"),
        ("seed-0/model.ckpt", f"{line(1, 9.0)}\n"),
        ("seed-1/model.ckpt", f"{line(1, 4.0)}\n{line(2, 3.0)[:20]}"),
        ("seed-1/acquired", f"{line(1, 1.0)}\n"),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "train.jsonl").write_text(text)
    estimate = {"value": 0.25, "ci95": [0.1, 0.4], "n": 48, "reason": None, "sd": None}
    metrics = {"forget": {"recall_rate": estimate, "known_rate": {**estimate, "value": None}}}
    provenance = {"seeds": [0, 1], "git": "abc"}
    write_document(folder / "eval.json", {"metrics": metrics, "provenance": provenance})
    write_document(folder / "robust.json", {"recoverable": {"value": 0.5}})
    return folder


def test_curves_of_finished_and_running_trainings_and_the_result_are_found(method: Path) -> None:
    found = record(method)
    assert found.curves["seed-0/loss"] == [(1, 3.0), (2, 2.0)], "the side folder is left out"
    assert found.curves["seed-0/grad_norm"] == [(2, 0.5)]
    assert found.curves["seed-0/terms/forget"] == [(1, -3.0), (2, -2.0)]
    assert found.curves["seed-1/loss"] == [(1, 4.0)], "the cut line waits"
    assert found.curves["seed-1/acquired/loss"] == [(1, 1.0)]
    assert found.values == {"forget.recall_rate": 0.25, "robust.recoverable": 0.5}
    assert found.settings == {"subject": "mini", "method": "npo", "seeds": [0, 1], "git": "abc"}


def test_an_unknown_or_absent_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        open_run("tensorbord", "p", "mini/npo", {}, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'palimpsest\[mlflow\]'"):
        open_run("mlflow", "p", "mini/npo", {}, "")


def arguments(tracker: str, *targets: str, to: str = "") -> argparse.Namespace:
    return argparse.Namespace(targets=targets, tracker=tracker, project="p", to=to, follow=False)


def test_a_target_without_a_run_is_named(method: Path) -> None:
    for target in ("mini/sku", "elsewhere"):
        with pytest.raises(UserError, match=f"results/{target} has no method with a run"):
            track.run(arguments("tensorboard", target))


def test_tensorboard_reads_what_was_sent(method: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'palimpsest[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a second call replaces the first one's files
        track.run(arguments("tensorboard", "mini"))
    read = EventAccumulator("tracking/tensorboard/p/mini/npo").Reload()
    assert [(e.step, e.value) for e in read.Scalars("seed-0/loss")] == [(1, 3.0), (2, 2.0)]
    assert [e.value for e in read.Scalars("result/forget.recall_rate")] == [0.25]


def test_mlflow_reads_what_was_sent(method: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'palimpsest[mlflow]'")
    track.run(arguments("mlflow", "mini/npo"))
    client = mlflow.tracking.MlflowClient("sqlite:///tracking/mlflow.db")
    experiment = client.get_experiment_by_name("p")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["method"] == "npo"
    assert run.data.metrics["forget.recall_rate"] == 0.25
    history = client.get_metric_history(run.info.run_id, "seed-0/loss")
    assert [(one.step, one.value) for one in history] == [(1, 3.0), (2, 2.0)]


def test_wandb_writes_a_run_offline(method: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'palimpsest[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track.run(arguments("wandb", "mini/npo", to="."))
    assert list(Path("wandb").glob("offline-run-*/run-*.wandb"))
