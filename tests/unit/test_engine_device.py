"""The number type of frozen weights is chosen alike, whatever else the machine does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from palimpsest.engine.device import resolve_dtype

CPU = torch.device("cpu")
BUSY = "import torch\na = torch.ones(700, 700)\nprint('began', flush=True)\nwhile True: a @ a"


@pytest.fixture
def crowd() -> Iterator[None]:
    """Four processes that multiply on every core."""
    crowd = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(4)
    ]
    try:
        for one in crowd:
            assert one.stdout is not None
            assert one.stdout.readline() == b"began\n"
        yield
    finally:
        for one in crowd:
            one.kill()
            one.communicate()


@pytest.fixture
def alone() -> torch.dtype:
    """The choice before the others come."""
    return resolve_dtype("auto", CPU)


def test_a_busy_machine_chooses_as_an_idle_one(alone: torch.dtype, crowd: None) -> None:
    threads = torch.get_num_threads()
    assert {resolve_dtype("auto", CPU) for _ in range(40)} == {alone}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_type_that_is_named_is_taken(dtype: torch.dtype) -> None:
    assert resolve_dtype(str(dtype).removeprefix("torch."), CPU) == dtype
