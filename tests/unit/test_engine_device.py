"""The number type of frozen weights follows from what the device can compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.config.schema import Base
from palimpsest.engine import device
from palimpsest.engine.device import resolve_dtype
from palimpsest.errors import UserError
from palimpsest.pipeline.plan.machine import Machine, width_of

CPU = torch.device("cpu")
PROCESSORS: list[tuple[dict[str, Any], torch.dtype]] = [
    ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, torch.float32),
    ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, torch.float32),
    ({"architecture": "aarch64", "neon": True, "bf16": True}, torch.bfloat16),
    ({"architecture": "aarch64", "neon": True, "bf16": False}, torch.float32),
    ({"architecture": "riscv64"}, torch.float32),
]


@pytest.mark.parametrize(("capabilities", "dtype"), PROCESSORS)
def test_the_processor_decides_for_stages_and_plan(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capabilities: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", CPU) == dtype
    machine = Machine(gpus=0, gpu_bytes=None, ram_bytes=1, disk_bytes=1, cores=1)
    assert width_of(Base(source="path:x"), machine, tmp_path) == dtype.itemsize


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_the_gpu_decides_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype("auto", torch.device("cuda")) == dtype


def test_a_gpu_without_bfloat16_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    device._say_fp32.cache_clear()
    for _ in range(2):
        resolve_dtype("auto", torch.device("cuda"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "compute capability 7.5" in line
    assert "float32" in line


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver.\nMore."
)


@pytest.mark.parametrize("environ", [{"PALIMPSEST_GPUS": "1"}, {"SLURM_JOB_ID": "5"}])
@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (None, ["built without CUDA", "pytorch.org", "--resources gpu=0", "PALIMPSEST_DEVICE=cpu"]),
        ("13.0", ["too old (found version 12020)", "driver 580 or newer", "pytorch.org"]),
        ("12.8", ["driver 525 or newer"]),
        ("99.1", ["needs CUDA 99.1: install a newer driver"]),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], cuda: str | None, said: list[str]
) -> None:
    """The model would run on the CPU for days before anybody noticed."""

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as refused:
        device.chosen_device({"CUDA_VISIBLE_DEVICES": "0", **environ})
    assert all(words in str(refused.value) for words in said), refused.value
    assert "\n" not in str(refused.value)


def test_a_gpu_that_is_too_old_for_torch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_120"])
    with pytest.raises(UserError, match=r"compute capability 7\.0, and torch .* begins at 7\.5"):
        device.chosen_device({})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert device.chosen_device({}) == torch.device("cuda")


@pytest.mark.parametrize(
    "environ",
    [
        {"PALIMPSEST_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""},
        {"PALIMPSEST_GPUS": "0"},
        {"PALIMPSEST_GPUS": "2", "PALIMPSEST_DEVICE": "cpu"},
        {"SLURM_JOB_ID": "5"},
    ],
)
def test_without_a_gpu_and_by_choice_it_is_the_cpu(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.chosen_device(environ) == CPU


def test_the_choice_hides_the_gpus_from_all_of_torch() -> None:
    environ = {"PALIMPSEST_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "1"}
    device.chosen_device(environ)
    assert environ["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(UserError, match="'cpu' or empty, not 'gpu'"):
        device.chosen_device({"PALIMPSEST_DEVICE": "gpu"})


def test_this_processor_always_gives_the_same_answer() -> None:
    assert len({resolve_dtype("auto", CPU) for _ in range(5)}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_configured_type_is_used(dtype: torch.dtype) -> None:
    assert resolve_dtype(str(dtype).removeprefix("torch."), CPU) == dtype


MANY_SHAPES = """
import re
from pathlib import Path
import torch
from palimpsest.engine.device import set_up

set_up(1)
weight = torch.randn(256, 256).bfloat16()
for rows in range(1, 701):
    torch.randn(rows, 256).bfloat16() @ weight
    if rows in (300, 700):
        status = Path("/proc/self/status").read_text()
        print(re.search(r"VmRSS:\\s+(\\d+) kB", status)[1])
"""


def test_steps_of_ever_new_lengths_take_no_more_memory() -> None:
    """Torch's own caches of compiled products took 265 MB for these 400 lengths."""
    command = [sys.executable, "-c", MANY_SHAPES]
    environ = {**os.environ, "PALIMPSEST_DEVICE": "cpu"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 64 * 1024
