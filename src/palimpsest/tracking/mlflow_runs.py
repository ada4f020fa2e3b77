"""Runs of MLflow; the experiment is the project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

FILE = "sqlite:///tracking/mlflow.db"


class _Run:
    def __init__(self, client: Any, run: str) -> None:
        self.client, self.run = client, run

    def points(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        for step, value in points:
            self.client.log_metric(self.run, _name(name), value, step=step)

    def values(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, _name(name), value)

    def close(self) -> None:
        self.client.set_terminated(self.run)


def open_run(project: str, name: str, settings: Mapping[str, Any], to: str) -> _Run:
    """A new run of the experiment `project`, at the address ``to`` (``tracking/mlflow.db``)."""
    from pathlib import Path

    from mlflow.tracking import MlflowClient

    if not to:
        Path("tracking").mkdir(exist_ok=True)
    client = MlflowClient(to or FILE)
    experiment = client.get_experiment_by_name(project)
    number = experiment.experiment_id if experiment else client.create_experiment(project)
    run = client.create_run(number, run_name=name).info.run_id
    for key, value in settings.items():
        client.log_param(run, key, str(value)[:500])
    return _Run(client, run)


def _name(name: str) -> str:
    """MLflow takes letters, digits, ``_ - . /`` and blanks."""
    return re.sub(r"[^\w\-./ ]", "_", name)
