"""The number type of frozen weights follows from what the device can compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest.config.schema import Base
from palimpsest.engine.device import resolve_dtype
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
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", CPU) == dtype
    machine = Machine(gpus=0, gpu_bytes=None, ram_bytes=1, disk_bytes=1, cores=1)
    assert width_of(Base(source="path:x"), machine) == dtype.itemsize


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_the_gpu_decides_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype("auto", torch.device("cuda")) == dtype


def test_this_processor_always_gives_the_same_answer() -> None:
    assert len({resolve_dtype("auto", CPU) for _ in range(5)}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_configured_type_is_used(dtype: torch.dtype) -> None:
    assert resolve_dtype(str(dtype).removeprefix("torch."), CPU) == dtype
