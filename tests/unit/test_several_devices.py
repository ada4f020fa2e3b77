"""Training in several processes: the same losses and weights as in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit import methods as tiny_methods
from kit import models as tiny
from kit import train_on_several as program
from kit.jobs import LOAD, UNTRACKED, Work
from palimpsest.engine.checkpoint import FACTS
from palimpsest.engine.rows import shares
from palimpsest.io.artifacts import ADAPTER_WEIGHTS, TRAINING_LOG
from palimpsest.pipeline.stages import Acquire, Pretrain
from palimpsest.stages.acquire import acquire

TAUGHT = {"lora": {"rank": 4, "targets": ["q_proj"]}, "optimizer": {"learning_rate": 1e-2}}
TESTS = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])


def started(*args: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        env={**os.environ, "PYTHONPATH": PATHS, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRAINING_LOG).read_text().splitlines()]


# Shares.


def test_the_dearest_share_is_as_cheap_as_can_be():
    lengths = [9, 2, 3, 8, 2, 3, 2]
    found = shares(lengths, 3)
    assert sorted(i for share in found for i in share) == list(range(7))
    assert max(len(share) * max(lengths[i] for i in share) for share in found) == 15


def test_fewer_rows_than_processes_leave_some_without():
    assert shares([5, 4], 4) == [[1], [0], [], []]
    assert shares([], 2) == [[], []]


# Two processes against one.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Every method trained in one process and in two, and what the two printed."""
    folder = tmp_path_factory.mktemp("trained")
    two = started(
        TESTS / "kit/train_on_several.py", '{"devices": 2}', folder / "two", *program.INSTALLED
    )
    for name in program.INSTALLED:
        program.train_one(name, folder / "one")
    printed, errors = two.communicate(timeout=600)
    assert two.returncode == 0, errors
    return folder / "one", folder / "two", printed + errors


REFUSALS = {
    "fila": "needs the gradients of whole, unquantised weights",
    "rmu_lat": "attack: its steps run some blocks alone",
}
"""Methods that need whole weights in every process, and what they say otherwise."""

RUNS = [
    (name, parallel)
    for name in program.METHODS
    for parallel in ("ddp", "fsdp")
    if parallel == "ddp" or name not in REFUSALS
]


@pytest.mark.parametrize(("name", "parallel"), RUNS)
def test_two_processes_give_the_losses_and_weights_of_one(trained, name: str, parallel: str):
    if name not in program.INSTALLED:
        pytest.skip("pip install '.[quantize]'")
    one, two = trained[0] / name, trained[1] / parallel / name
    expected, found = lines(one), lines(two)
    steps = 1 if name == "lunar" else 4
    assert [line["step"] for line in found] == list(range(1, steps + 1))
    for alone, together in zip(expected, found, strict=True):
        for key in ("loss", "tokens", "lr"):
            assert together[key] == pytest.approx(alone[key], rel=1e-5, abs=1e-5), key
        # A norm taken at weights that the steps before left a rounding apart.
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        assert together["terms"] == pytest.approx(alone["terms"], rel=1e-5, abs=1e-5)
        for key in {"state", "cosines"} & alone.keys():
            assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-4)
    alone, together = load_file(one / program.WEIGHTS), load_file(two / program.WEIGHTS)
    # A moment of 8 bits may round to its other neighbour: hundredths of a step of 1e-3.
    apart = 1e-4 if name == "adamw8bit" else 1e-5
    for tensor, value in alone.items():
        torch.testing.assert_close(together[tensor], value, rtol=1e-5, atol=apart)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_needs_whole_weights_is_refused_where_they_are_spread(trained, name: str):
    message = (trained[1] / "fsdp" / name / program.REFUSED).read_text(encoding="utf-8")
    assert REFUSALS[name] in message
    assert "parallel: ddp" in message
    assert len(list(trained[1].rglob(program.REFUSED))) == len(REFUSALS)


def test_the_cap_is_reached_in_some_steps_and_in_others_not(trained):
    found = [line["terms"]["preserve"] for line in lines(trained[0] / "sku")]
    capped = [value == pytest.approx(-program.CAP) for value in found]
    assert any(capped)
    assert not all(capped)


def test_one_process_prints_each_line_once(trained):
    printed = trained[2].splitlines()
    for name in ("finetune", "memflex", "rmu"):
        ends = [line for line in printed if line.startswith(f"{name} [") and " 4/4 " in line]
        assert len(ends) == 2, "with all weights on each device, and with shares of them"
    assert printed.count("on 2 devices, each with all weights") == 1


# A stage's program.


@dataclass(frozen=True)
class Acquisition:
    """Folders of a small subject, and the program that acquires with it on two devices."""

    root: Path

    def start(self, out: str, steps: int, **untracked: Any) -> subprocess.Popen[str]:
        options = {
            "config": json.dumps(config(steps)),
            "untracked": json.dumps({**UNTRACKED, "devices": 2, **untracked}),
            "base": self.root / "base",
            "subject": self.root / "subject",
            "tokens": self.root / "tokens",
            "reference": self.root / "reference",
            "out": self.root / out,
            "threads": 2,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return started(TESTS.parent / "workflow/scripts/stage.py", "acquire", *words)

    def adapter(self, out: str) -> bytes:
        return (self.root / out / ADAPTER_WEIGHTS).read_bytes()


def config(steps: int) -> dict[str, Any]:
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "first_layer": 2}
    return {
        **LOAD,
        "settings": {
            "algorithm": "sku",
            "steps": steps,
            "rows": {"forget": 2, "retain": 2},
            "training": {"lora": lora, "optimizer": {"learning_rate": 1e-3}},
        },
        "seed": 0,
        "sets": {"forget": "set/forget", "retain": "set/train"},
    }


@pytest.fixture(scope="module")
def acquisition(tmp_path_factory: pytest.TempPathFactory) -> Acquisition:
    root = tmp_path_factory.mktemp("acquisition")
    tiny.save_base(root / "base", tiny.llama(torch.float32))
    parts = {"forget": tiny_methods.SETS["forget"], "train": tiny_methods.SETS["retain"]}
    tiny.save_tokens(root / "tokens" / "set", parts)
    taught = {"data": ["set/forget"], "epochs": 2, "batch_rows": 4, "training": TAUGHT}
    work = Work(root)
    work.run(Pretrain, "subject", {**LOAD, "pretrain": taught})
    work.refer()
    return Acquisition(root)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode for path in folder.iterdir()}


def until(process: subprocess.Popen[str], log: Path) -> None:
    """Wait for the first line of a step log."""
    deadline = time.monotonic() + 300
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stopped_run_on_two_devices_ends_with_the_same_bytes(acquisition):
    root, steps = acquisition.root, 100
    folders = {name: root / name for name in ("base", "subject", "tokens", "reference")}
    acquire(
        Acquire(config=config(steps), untracked=UNTRACKED, **folders, out=root / "one", threads=1)
    )
    whole = acquisition.start("whole", steps)
    errors = whole.communicate(timeout=600)[1]
    assert whole.returncode == 0, errors
    side = root / "broken.ckpt"

    first = acquisition.start("broken", steps)
    until(first, side / TRAINING_LOG)
    first.terminate()
    errors = first.communicate(timeout=300)[1]
    assert first.returncode == 143, errors
    assert "Traceback" not in errors
    step = json.loads((side / FACTS).read_text())["step"]
    assert 0 < step == len(lines(side)) < steps

    second = acquisition.start("broken", steps)
    errors = second.communicate(timeout=600)[1]
    assert second.returncode == 0, errors
    assert errors.count(f"resumed after step {step}") == 1
    assert not side.exists()
    assert acquisition.adapter("broken") == acquisition.adapter("whole")
    assert [line["step"] for line in lines(root / "broken")] == list(range(1, steps + 1))
    assert modes(root / "whole") == modes(root / "one")
    one, two = (load_file(root / name / ADAPTER_WEIGHTS) for name in ("one", "whole"))
    assert {n: v.shape for n, v in two.items()} == {n: v.shape for n, v in one.items()}
