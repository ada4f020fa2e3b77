"""Schedule-free AdamW: the formulas, the point that is saved, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kit.methods import Bench, bench
from palimpsest.engine.optimizer import average, optimizer_of, portions
from palimpsest.engine.train import schedule, train
from palimpsest.errors import UserError
from palimpsest.settings.training import Optimizer
from reference import analysis360 as released

UNTRACKED = {"name": "schedule_free", "learning_rate": 1e-2, "warmup_steps": 3}


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_schedule_free_saves_the_average_and_not_where_it_trains(warmup: int, steps: int) -> None:
    """Analysis360 7 (11), against the recurrences of x, y and z."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, generator=random, dtype=torch.float64)
    gradients = [torch.randn(7, 5, generator=random, dtype=torch.float64) for _ in range(steps)]
    y, x = released.schedule_free(start, gradients, 0.05, warmup=warmup)

    weight = start.clone().requires_grad_(True)
    settings = Optimizer(name="schedule_free", learning_rate=0.05, warmup_steps=warmup)
    optimizer = optimizer_of({"w": weight}, settings)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), y, rtol=1e-10, atol=1e-12)
    average(optimizer)
    torch.testing.assert_close(weight.detach(), x, rtol=1e-10, atol=1e-12)
    if steps == 25:
        assert (x - y).norm() > 0.01 * (x - start).norm(), "what the released code saves is not it"


def test_tensors_are_updated_together_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of any size: the same bits, and another order of the same operations per tensor."""
    random = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (3,), (40,), (2, 2), (1,)]
    start = [torch.randn(shape, generator=random) for shape in shapes]
    gradients = [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(6)]
    settings = Optimizer(name="schedule_free", learning_rate=0.05, weight_decay=0.1, warmup_steps=2)
    ends = []
    for numbers in (1, 40, 1000):
        monkeypatch.setattr("palimpsest.engine.optimizer.AT_ONCE", numbers)
        weights = {str(i): w.clone().requires_grad_(True) for i, w in enumerate(start)}
        optimizer = optimizer_of(weights, settings)
        for step in gradients:
            for weight, gradient in zip(weights.values(), step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        ends.append(list(weights.values()))
    assert len(portions(start, 1)) == 5
    assert len(portions(start, 40)) == 3
    assert len(portions(start, 1000)) == 1
    assert len(portions([start[0], start[1].double(), start[2]], 1000)) == 3
    for end in ends[1:]:
        assert all(map(torch.equal, ends[0], end))


def test_adamw_is_one_kernel_on_a_gpu_alone() -> None:
    """On the CPU the fused form rounds otherwise: trained adapters would be others."""
    weights = {"w": torch.ones(2, requires_grad=True)}
    (group,) = optimizer_of(weights, Optimizer(learning_rate=1e-3)).param_groups
    assert (group["foreach"], group["fused"]) == (False, False)


def test_schedule_free_finds_the_minimum_of_a_parabola() -> None:
    weight = torch.full((3,), 5.0, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    settings = Optimizer(name="schedule_free", learning_rate=0.1)
    optimizer = optimizer_of({"w": weight}, settings)
    for _ in range(2000):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    average(optimizer)
    torch.testing.assert_close(weight.detach(), target, rtol=0, atol=0.05)


def test_weights_without_a_gradient_stay_and_decay_is_decoupled() -> None:
    still = torch.ones(2, requires_grad=True)
    decayed = torch.ones(2, requires_grad=True)
    settings = Optimizer(name="schedule_free", learning_rate=0.1, weight_decay=0.5)
    optimizer = optimizer_of({"still": still, "decayed": decayed}, settings)
    decayed.grad = torch.zeros(2)
    optimizer.step()
    average(optimizer)
    assert still.tolist() == [1.0, 1.0]
    assert 0.99 < decayed[0].item() < 1.0


def test_averaging_leaves_adamw_alone() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = optimizer_of({"w": weight}, Optimizer(learning_rate=0.1))
    weight.grad = torch.ones(3)
    optimizer.step()
    before = weight.detach().clone()
    average(optimizer)
    assert torch.equal(weight.detach(), before)


def test_schedule_free_has_no_decay_of_the_rate() -> None:
    settings = Optimizer(**UNTRACKED)
    assert {schedule(settings, step, 10) for step in range(10)} == {1.0}


def test_schedule_free_needs_its_first_moment() -> None:
    settings = Optimizer(name="schedule_free", learning_rate=0.1, betas=(0.0, 0.9))
    with pytest.raises(UserError, match=r"training.optimizer.betas: .* schedule_free"):
        optimizer_of({"w": torch.ones(1, requires_grad=True)}, settings)


class Killed(BaseException):
    """Stands for the end of the process."""


def run(folder: Path, die_at: int | None = None) -> tuple[dict[str, Tensor], Bench]:
    made = bench(
        "max_entropy",
        folder,
        dtype=torch.float32,
        moved=False,
        steps=8,
        training={"optimizer": UNTRACKED, "parameters": [r"model\.layers\.2\.mlp\..*"]},
    )
    calls = [0]

    def loss(streams: object) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == die_at:
            raise Killed
        return made.job.loss(streams)  # type: ignore[arg-type]

    train(dataclasses.replace(made.job, loss=loss, checkpoint_seconds=0.0))
    return made.job.weights, made


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_killed_schedule_free_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, step: int
) -> None:
    """sku-llmu 6.5 (9)."""
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", die_at=step)
    resumed, _ = run(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # Killed after its last checkpoint: nothing is left to train, and the average is still taken.
    again, _ = run(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
