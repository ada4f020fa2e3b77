"""The device and the number type of the model."""

from __future__ import annotations

import os

import torch

from palimpsest.engine import ranks
from palimpsest.errors import UserError
from palimpsest.machines.gpus import computes_bf16

BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of bfloat16 instructions in ``torch.cpu.get_capabilities()``: two of x86, one of ARM."""


def set_up(threads: int | None = None) -> torch.device:
    """Make arithmetic repeatable and return the device: CUDA if there is a GPU, else the CPU.

    The processes of a job connect here, and each gets its own device.

    Args:
        threads: CPU threads of the job; results repeat to the byte at a fixed number alone.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    count = ranks.join().count
    torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // count))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills new memory, which costs a twentieth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Number type of the frozen weights.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on devices that compute it, else
            float32.
        device: where the model runs.
    """
    if ":" in name:
        raise UserError(
            f"bases.<base>.quantize: {name.partition(':')[0]}: vllm would answer with the plain "
            "weights, another model; set measure.generation.backend: transformers"
        )
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return torch.bfloat16 if _computes_bf16(device) else torch.float32


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return computes_bf16(torch.cuda.get_device_capability(device))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BF16)
