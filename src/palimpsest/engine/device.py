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
    # Measured apart, two processes might choose differently.
    return torch.bfloat16 if ranks.agreed(_bf16_is_faster()) else torch.float32


def _bf16_is_faster(size: int = 256, repeats: int = 15) -> bool:
    """Whether matrix products take at most 0.8 times as long in bfloat16 as in fp32.

    Two runs must choose alike, whatever else the machine does: so the time is the processor's, of
    one thread, and the best of several products that are made in turn. Without bfloat16
    instructions they are 100 times slower.
    """
    squares = [torch.ones(size, size, dtype=t) for t in (torch.bfloat16, torch.float32)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [[_seconds(square) for square in squares] for _ in range(repeats)]
    finally:
        torch.set_num_threads(threads)
    bf16, fp32 = (min(column) for column in zip(*times, strict=True))
    return bf16 < 0.8 * fp32


def _seconds(square: torch.Tensor) -> float:
    began = time.thread_time()
    square @ square
    return time.thread_time() - began
