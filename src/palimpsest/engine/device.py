"""Where and in which number type the model runs."""

from __future__ import annotations

import os
import time

import torch

from palimpsest.engine import ranks


def set_up(threads: int | None = None) -> torch.device:
    """Make arithmetic repeatable and return the device: CUDA where there is one, else the CPU.

    In a job of several processes they meet here, and each gets a device of its own.

    Args:
        threads: CPU threads of the job; results repeat to the byte only at a fixed number.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    count = ranks.join().count
    torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // count))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That also fills new memory before it is used: a twentieth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Type of the frozen weights; ``auto`` is bfloat16 on CUDA and on CPUs that compute it fast."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16
    fast = _seconds(torch.bfloat16) < 0.8 * _seconds(torch.float32)
    # Measured apart, two processes might choose differently.
    return torch.bfloat16 if ranks.agreed(fast) else torch.float32


def _seconds(dtype: torch.dtype, size: int = 256, repeats: int = 3) -> float:
    # Best of a few matrix products; without bfloat16 instructions they are 100 times slower.
    a = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return min(times)
