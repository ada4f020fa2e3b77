"""PDU: golden values, which positions count, how lambda moves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit.preference import FORGET, RETAIN
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import train
from palimpsest.io.artifacts import TRAINING_LOG
from reference import masks

FIXED: dict[str, Any] = {"epsilon": {"value": 0.3}, "multiplier": 100, "rate": 5}


def state(value: float, step: int = 0) -> dict[str, Tensor]:
    """What the loss reads at a value of lambda, in a step of three."""
    return {"lambda": torch.tensor(value, dtype=torch.float64), "share": torch.tensor(step / 3)}


def forget_term(stream: Stream) -> Tensor:
    return methods.method("pdu").loss({"forget": stream}, {})["forget"]


def test_the_golden_value_and_its_slopes() -> None:
    stream = FORGET.stream()
    for states in stream.hidden:
        states.requires_grad_()
    term = forget_term(stream)
    assert term.item() == pytest.approx(5.5724332155, rel=1e-10)
    slopes = torch.autograd.grad(term, list(stream.hidden))
    assert torch.cat(slopes).norm().item() == pytest.approx(1.50049597396, rel=1e-10)
    assert slopes[0][0, 1].item() == pytest.approx(0.511796626194, rel=1e-10)
    assert slopes[0][0, 2].item() == pytest.approx(-0.0511796626194, rel=1e-10)


def test_the_slope_is_the_central_difference() -> None:
    stream = FORGET.stream()
    first = stream.hidden[0].requires_grad_()
    (slope,) = torch.autograd.grad(forget_term(stream), first)
    with torch.no_grad():
        for place in ((0, 1), (0, 5), (3, 2), (4, 0)):
            there = []
            for sign in (1, -1):
                moved = first.clone()
                moved[place] += sign * 1e-6
                states = [moved, *stream.hidden[1:]]
                there.append(forget_term(replace(stream, hidden=states)).item())
            assert slope[place].item() == pytest.approx((there[0] - there[1]) / 2e-6, abs=1e-8)


def test_it_is_zero_where_the_logits_are_level_and_nowhere_else() -> None:
    stream = FORGET.stream()
    level = [torch.full_like(states, 3.0) for states in stream.hidden]
    assert forget_term(replace(stream, hidden=level)).item() == 0
    level[1][0, 4] += 1e-3
    assert forget_term(replace(stream, hidden=level)).item() > 0


def test_the_logits_that_predict_an_answer_token_count_and_no_others() -> None:
    """open-unlearning's mask is that of the tokens themselves (its issue 149)."""
    stream = FORGET.stream()
    before, after = list(stream.hidden), list(stream.hidden)
    before[0] = before[0].index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(9.0).double())
    after[0] = after[0].index_put((torch.tensor(-1), torch.tensor(1)), torch.tensor(9.0).double())
    ours, theirs = [], []
    for states in (stream.hidden, before, after):
        ours.append(forget_term(replace(stream, hidden=states)).item())
        theirs.append(masks.pdu(stream.rows, states).item())
    assert ours[1] > ours[0] == ours[2], "what predicts the first answer token"
    assert theirs[2] > theirs[0] == theirs[1], "what comes after the last one"


def test_lambda_follows_the_retain_cost() -> None:
    made, value, found = methods.method("pdu", **FIXED), 100.0, []
    for cost in (0.5, 0.2, 0.25, 0.9):
        retain = replace(RETAIN.stream(), cost=torch.tensor(cost, dtype=torch.float64))
        value = made.after_step({"retain": retain}, state(value))["lambda"].item()
        found.append(value)
    assert found == pytest.approx([101, 100.5, 100.25, 103.25], rel=1e-12)


def test_lambda_is_never_negative_and_falls_below_epsilon() -> None:
    made = methods.method("pdu", **{**FIXED, "epsilon": {"value": 2.0}})
    retain = replace(RETAIN.stream(), cost=torch.tensor(1.5, dtype=torch.float64))
    assert made.after_step({"retain": retain}, state(100.0))["lambda"].item() == 97.5
    assert made.after_step({"retain": retain}, state(2.0))["lambda"].item() == 0


def test_lambda_stays_during_the_warm_up() -> None:
    made = methods.method("pdu", **FIXED, warmup_steps=2)
    retain = replace(RETAIN.stream(), cost=torch.tensor(0.5, dtype=torch.float64))
    moves = [made.after_step({"retain": retain}, state(100.0, step)) for step in range(3)]
    assert moves[:2] == [{}, {}]
    assert moves[2]["lambda"].item() == pytest.approx(101)


def test_the_retain_term_is_what_the_cost_exceeds_epsilon_by_times_lambda() -> None:
    """Token mean of the golden retain rows: 1.37385069335."""
    made = methods.method("pdu", **FIXED)
    term = made.loss({"retain": RETAIN.stream()}, state(7.0))["retain"]
    assert term.item() == pytest.approx(7 * (1.37385069335 - 0.3), rel=1e-10)


def test_epsilon_is_above_what_the_first_rows_cost_the_subject() -> None:
    made = methods.bench("pdu", epsilon={"above_start": 0.25}, moved=False)
    cost = made.streams()["retain"].token_nll().mean().item()
    assert made.job.fixed["epsilon"].item() == pytest.approx(cost + 0.25, rel=1e-9)
    assert methods.bench("pdu", **FIXED).job.fixed == {}


def test_a_training_moves_lambda_once_a_step_and_logs_it(tmp_path: Path) -> None:
    made = methods.bench("pdu", tmp_path, **{**FIXED, "warmup_steps": 1}, steps=4, moved=False)
    train(made.job)
    lines = [json.loads(line) for line in (tmp_path / TRAINING_LOG).read_text().splitlines()]
    values = [line["state"]["lambda"] for line in lines]
    assert values[:2] == [100, 100]
    for line, value, following in zip(lines[1:], values[1:], values[2:], strict=False):
        beyond = line["terms"]["retain"] / value
        assert following == pytest.approx(value + 5 * beyond, rel=1e-9)
    assert made.job.state["lambda"].item() != values[-1], "it moves after the last step, too"


class Killed(BaseException):
    """Stands for the end of the process at some point."""


def test_a_resumed_run_has_the_lambda_and_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    """epsilon is that of the untrained model, also where trained weights are loaded."""
    over: dict[str, Any] = {
        "steps": 4,
        "epsilon": {"above_start": 0.01},
        "training": {"optimizer": {"learning_rate": 1e-2}, "checkpoint_seconds": 0},
        "dtype": torch.float32,
        "moved": False,
    }
    whole = methods.bench("pdu", tmp_path / "whole", **over)
    train(whole.job)
    first, calls = methods.bench("pdu", tmp_path / "again", **over), [0]

    def dies(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == 3:
            raise Killed
        return first.job.loss(streams)

    with pytest.raises(Killed):
        train(replace(first.job, loss=dies))
    again = methods.bench("pdu", tmp_path / "again", **over)
    train(again.job)
    assert torch.equal(again.job.state["lambda"], whole.job.state["lambda"])
    assert whole.job.state["lambda"].item() != 100
    for name, weight in whole.job.weights.items():
        assert torch.equal(again.job.weights[name], weight)
