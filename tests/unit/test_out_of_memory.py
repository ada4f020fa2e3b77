"""A lack of memory is one line that names what helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from palimpsest.errors import UserError, memory_explained

HELPS = "Take less."


@pytest.mark.parametrize(
    ("error", "which"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "GPU's"),
        (MemoryError(), "main"),
    ],
)
def test_each_memory_is_named(error: Exception, which: str) -> None:
    match = rf"the {which} memory is too small .*\. Take less\."
    with pytest.raises(UserError, match=match), memory_explained(HELPS):
        raise error


def test_the_processor_s_allocator_is_known_by_its_words() -> None:
    with pytest.raises(UserError, match="the main memory is too small"), memory_explained(HELPS):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_another_error_passes() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained(HELPS):
        raise RuntimeError("shapes differ")


def test_a_stage_ends_with_one_line(tmp_path: Path) -> None:
    program = """
import torch
from palimpsest.errors import run_cli
from palimpsest.pipeline import program
def work(stage):
    def fail(job):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return fail
program.work = work
run_cli(lambda: program.run(
    ["describe", "--config", "{}", "--base", "b", "--out", "out/model.json"]
))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the GPU's memory is too small (CUDA out of memory)")
    for setting in ("gradient_checkpointing", "batch_rows", "batch_tokens", "palimpsest plan"):
        assert setting in line
