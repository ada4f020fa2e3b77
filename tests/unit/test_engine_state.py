"""What a method carries from step to step, and the share of steps done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from palimpsest.engine.assemble import job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.checkpoint import FACTS
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, train
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw

STEPS = 5


class Killed(BaseException):
    """Stands for the end of the process at some point."""


class Drifting(Unlearning):
    """A weight that follows the costs that it has met."""

    algorithm: Literal["drifting"] = "drifting"

    def draws(self) -> dict[str, Draw]:
        return {"retain": Draw(self.rows.retain, ("retain",))}

    def state(self) -> dict[str, Tensor]:
        return {"weight": torch.tensor(1.0), "met": torch.zeros(STEPS)}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = fixed["weight"] + fixed["share"]
        return {"retain": weight * streams["retain"].token_nll().mean()}

    def after_step(
        self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        cost = streams["retain"].cost
        assert cost is not None
        assert not torch.is_grad_enabled()
        met = fixed["met"].clone()
        met[round(fixed["share"].item() * STEPS)] = cost
        return {"weight": fixed["weight"] + cost / 10, "met": met}


def job(folder: Path) -> Job:
    settings = Drifting(
        steps=STEPS,
        rows={"retain": 2},
        training={"optimizer": {"learning_rate": 1e-2}, "checkpoint_seconds": 0.0},
    )
    subject = tiny.llama(torch.float32)
    model, weights = tiny.with_lora(subject, moved=False)
    draws = settings.draws()
    return job_of(
        settings,
        streams_of(draws, methods.Memory(draws, subject), 0),
        Body(model.get_base_model()),
        weights,
        label="drifting",
        folder=folder,
        fingerprint="drifting",
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / TRAINING_LOG).read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    made = job(folder)
    train(made)
    return made, lines(folder)


def test_a_step_reads_what_the_steps_before_it_left(whole: tuple[Job, list[Any]]) -> None:
    """L = (weight + share) cost, and the weight grows by a tenth of each cost."""
    made, log = whole
    weight = 1.0
    for step, line in enumerate(log):
        assert line["state"] == {"weight": pytest.approx(weight, rel=1e-6)}, "tensors stay out"
        cost = line["loss"] / (weight + step / STEPS)
        assert made.state["met"][step].item() == pytest.approx(cost, rel=1e-6)
        weight += made.state["met"][step].item() / 10
    assert made.state["weight"].item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("killed_in", [1, 2, 4])
def test_a_resumed_run_has_the_state_of_an_uninterrupted_one(
    tmp_path: Path, whole: tuple[Job, list[Any]], killed_in: int
) -> None:
    first = job(tmp_path)
    calls = [0]
    loss = first.loss

    def dies(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == killed_in:
            raise Killed
        return loss(streams)

    object.__setattr__(first, "loss", dies)
    with pytest.raises(Killed):
        train(first)
    again = job(tmp_path)
    train(again)
    for one, other in ((again.state, whole[0].state), (again.weights, whole[0].weights)):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert lines(tmp_path) == whole[1]


def test_a_checkpoint_without_the_state_starts_clean(
    tmp_path: Path, whole: tuple[Job, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """As one has that an earlier version of the method saved."""
    before = job(tmp_path)
    before.state.clear()
    object.__setattr__(before, "after_step", None)
    train(before)
    assert json.loads((tmp_path / FACTS).read_text())["step"] == STEPS
    again = job(tmp_path)
    train(again)
    assert "the checkpoint is damaged" in capsys.readouterr().err
    assert all(torch.equal(again.weights[n], w) for n, w in whole[0].weights.items())
