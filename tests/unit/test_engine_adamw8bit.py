"""AdamW with moments in 8 bits: what it keeps, how near it is to AdamW, resuming, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit.jobs import LOAD, UNTRACKED
from kit.methods import bench
from palimpsest.engine.checkpoint import Checkpoint
from palimpsest.engine.optimizer import optimizer_of
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.limits import SMALL_TENSOR
from palimpsest.pipeline.plan.memory import Trained
from palimpsest.pipeline.stages import Acquire, Pretrain
from palimpsest.settings.training import Optimizer
from palimpsest.stages.acquire import acquire
from palimpsest.stages.pretrain import pretrain

EIGHT = {"name": "adamw8bit", "learning_rate": 1e-2, "warmup_steps": 3}
MISSING = (
    r"training\.optimizer\.name: adamw8bit needs bitsandbytes, which is not installed: "
    r"pip install '\.\[quantize\]'"
)


@pytest.fixture
def library() -> None:
    """The real library, or the reason why a test cannot run."""
    pytest.importorskip("bitsandbytes", reason="pip install '.[quantize]'")


# Without the library.


def test_without_the_library_a_job_ends_before_it_reads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no base in these folders: an error about it would come first."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    training = {"optimizer": EIGHT, "lora": {"targets": ["q_proj"]}}
    settings: dict[str, Any] = {"steps": 10, "rows": {"forget": 2}, "training": training}
    folders = {name: tmp_path / name for name in ("base", "tokens", "out")}
    taught = {"data": ["set/forget"], "epochs": 2, "batch_rows": 4, "training": training}
    with pytest.raises(UserError, match=MISSING):
        pretrain(Pretrain(config={**LOAD, "pretrain": taught}, untracked=UNTRACKED, **folders))
    config = {**LOAD, "settings": {"algorithm": "sku", **settings}, "seed": 0, "sets": {}}
    folders["subject"] = tmp_path / "subject"
    with pytest.raises(UserError, match=MISSING):
        acquire(Acquire(config=config, untracked=UNTRACKED, **folders))
    with pytest.raises(UserError, match=MISSING):
        optimizer_of({"w": torch.ones(1, requires_grad=True)}, Optimizer(**EIGHT))


def test_a_number_that_an_optimiser_counts_stays_a_number(tmp_path: Path) -> None:
    """bitsandbytes counts steps in an int, and passes it to its kernel."""
    (tmp_path / TRAINING_LOG).write_bytes(b"")
    weight = torch.ones(2, requires_grad=True)
    counting = torch.optim.SGD([weight], lr=0.1)
    counting.state[weight] = {"step": 7, "codes": torch.tensor([1, 255], dtype=torch.uint8)}
    checkpoint = Checkpoint(tmp_path, "same", tmp_path / TRAINING_LOG)
    checkpoint.save(7, {"w": weight}, counting)
    fresh = torch.optim.SGD([weight], lr=0.1)
    assert checkpoint.load({"w": weight}, fresh) == 7
    state = fresh.state[weight]
    assert state["step"] == 7
    assert isinstance(state["step"], int)
    assert (state["codes"].dtype, state["codes"].tolist()) == (torch.uint8, [1, 255])


# With it.


def stepped(sizes: dict[str, tuple[int, ...]], settings: Optimizer) -> Any:
    """Weights of these shapes and their optimiser, after a step."""
    random = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(s, generator=random).requires_grad_(True) for n, s in sizes.items()}
    optimizer = optimizer_of(weights, settings)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=random)
    optimizer.step()
    return weights, optimizer


@pytest.mark.usefixtures("library")
def test_large_tensors_have_moments_of_a_byte_and_the_plan_counts_them() -> None:
    """The last block of 256 numbers may be a part of one."""
    sizes = {"large": (160, 64), "odd": (65, 67), "at": (64, 64), "below": (63, 65), "norm": (64,)}
    weights, optimizer = stepped(sizes, Optimizer(**EIGHT))
    states = {name: optimizer.state[weight] for name, weight in weights.items()}
    types = {name: state["state1"].dtype for name, state in states.items()}
    eight, full = torch.uint8, torch.float32
    assert types == {"large": eight, "odd": eight, "at": eight, "below": full, "norm": full}
    kept = sum(
        state[key].nbytes
        for state in states.values()
        for key in ("state1", "state2", "absmax1", "absmax2")
        if key in state
    )
    numbers = [weight.numel() for weight in weights.values()]
    trained = Trained(numbers, 0, 0.0).by(Optimizer(**EIGHT))
    planned = (trained.bytes_each - 8) * trained.numbers
    assert planned <= kept <= planned + 8, "of values and gradients there are 8 bytes"
    large = sum(n for n in numbers if n >= SMALL_TENSOR)
    assert (kept - 8 * (sum(numbers) - large)) / (8 * large) == pytest.approx(0.254, abs=1e-3)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_first_step_is_that_of_adamw(decay: float) -> None:
    """Moments are rounded after a step, so the first one knows nothing of it."""
    sizes = {"large": (160, 64), "norm": (64,)}
    ends = [
        stepped(sizes, Optimizer(name=name, learning_rate=1e-2, weight_decay=decay))[0]
        for name in ("adamw", "adamw8bit")
    ]
    for name in sizes:
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=1e-5, atol=1e-6)


def fitted(name: str, steps: int = 200) -> tuple[Tensor, float]:
    """A regression from noisy gradients: how its matrix has moved, and how the loss has fallen."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 64, generator=random)
    answers = inputs @ torch.randn(64, 96, generator=random)
    weight = torch.zeros(64, 96, requires_grad=True)
    optimizer = optimizer_of({"w": weight}, Optimizer(name=name, learning_rate=1e-2))
    for step in range(steps):
        batch = torch.arange(16) + 16 * (step % 32)
        optimizer.zero_grad()
        (inputs[batch] @ weight - answers[batch]).square().mean().backward()
        optimizer.step()
    fall = answers.square().mean() - (inputs @ weight - answers).square().mean()
    return weight.detach(), fall.item()


@pytest.mark.usefixtures("library")
def test_a_fit_ends_near_that_of_adamw() -> None:
    """They end 1.3 % of the way apart, and the loss has fallen by 0.2 % less."""
    (exact, expected), (ours, fall) = fitted("adamw"), fitted("adamw8bit")
    apart = ((ours - exact).norm() / exact.norm()).item()
    assert 1e-4 < apart < 0.02
    assert fall == pytest.approx(expected, rel=0.01)


class Killed(BaseException):
    """Stands for the end of the process."""


def run(folder: Path, die_at: int | None = None) -> dict[str, Tensor]:
    """Eight steps on matrices of 5120 numbers and a norm of 32."""
    made = bench(
        "max_entropy",
        folder,
        dtype=torch.float32,
        moved=False,
        inner=160,
        steps=8,
        training={"optimizer": EIGHT, "parameters": [r"model\.layers\.2\.(mlp|post).*"]},
    )
    calls = [0]

    def loss(streams: object) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == die_at:
            raise Killed
        return made.job.loss(streams)  # type: ignore[arg-type]

    train(dataclasses.replace(made.job, loss=loss, checkpoint_seconds=0.0))
    return made.job.weights


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, step: int
) -> None:
    whole = run(tmp_path / "whole")
    assert sorted({weight.numel() for weight in whole.values()}) == [32, 5120]
    with pytest.raises(Killed):
        run(tmp_path / "killed", die_at=step)
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
