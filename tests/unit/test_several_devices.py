"""Training in several processes: the same losses and weights as in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train_on_several as program
from palimpsest.engine.rows import shares
from palimpsest.engine.train import LOG

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
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


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
        TESTS / "train_on_several.py", '{"devices": 2}', folder / "two", *program.METHODS
    )
    for name in program.METHODS:
        program.train_one(name, folder / "one")
    printed, errors = two.communicate(timeout=600)
    assert two.returncode == 0, errors
    return folder / "one", folder / "two", printed + errors


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", program.METHODS)
def test_two_processes_give_the_losses_and_weights_of_one(trained, name: str, parallel: str):
    one, two = trained[0] / name, trained[1] / parallel / name
    expected, found = lines(one), lines(two)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for alone, together in zip(expected, found, strict=True):
        for key in ("loss", "grad_norm", "tokens", "lr"):
            assert together[key] == pytest.approx(alone[key], rel=1e-5, abs=1e-5), key
        assert together["terms"] == pytest.approx(alone["terms"], rel=1e-5, abs=1e-5)
    alone, together = load_file(one / program.WEIGHTS), load_file(two / program.WEIGHTS)
    for tensor, value in alone.items():
        torch.testing.assert_close(together[tensor], value, rtol=1e-5, atol=1e-5)


def test_the_methods_meet_what_tells_a_mean_of_means_from_a_mean(trained):
    """Terms that are bounded, and steps whose rows are unlike."""
    preserve = [line["terms"]["preserve"] for line in lines(trained[0] / "sku")]
    assert preserve[0] > -0.3 
    print(preserve)


def test_one_process_prints_each_line_once(trained):
    printed = trained[2].splitlines()
    assert len(printed) == len(set(printed))
