"""Runs of Weights & Biases; ``WANDB_MODE=offline`` keeps them on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class _Run:
    def __init__(self, run: Any) -> None:
        self.run = run

    def points(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        # Curves of several seeds have steps of their own.
        axis = f"{name}/step"
        self.run.define_metric(name, step_metric=axis)
        for step, value in points:
            self.run.log({name: value, axis: step})

    def values(self, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))

    def close(self) -> None:
        self.run.finish()


def open_run(project: str, name: str, settings: Mapping[str, Any], to: str) -> _Run:
    """A new run of `project`; ``to``: the folder of its files."""
    import wandb

    return _Run(wandb.init(project=project, name=name, config=dict(settings), dir=to or None))
