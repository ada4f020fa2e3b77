"""What this machine has: GPUs, memory, disk, processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from palimpsest.config.schema import Base
from palimpsest.machines.gpus import computes_bf16, usable


@dataclass(frozen=True)
class Machine:
    """What jobs would run on; memory in bytes.

    Attributes:
        gpus: GPUs that may be used.
        gpu_bytes: memory of the smallest of them, None where it is not known.
        ram_bytes: main memory.
        disk_bytes: free space where the project is.
        cores: processors.
        gpu_bf16: whether all GPUs compute bfloat16.
    """

    gpus: int
    gpu_bytes: int | None
    ram_bytes: int
    disk_bytes: int
    cores: int
    gpu_bf16: bool = True


def this_machine(environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine; no GPU is touched.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names something that is not in the machine.
    """
    gpus = len(usable(environ))
    gpu_bytes, gpu_bf16 = _gpus() if gpus else (None, True)
    return Machine(
        gpus=gpus,
        gpu_bytes=gpu_bytes,
        ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=shutil.disk_usage(Path()).free,
        cores=len(os.sched_getaffinity(0)),
        gpu_bf16=gpu_bf16,
    )


def width_of(base: Base, machine: Machine) -> int:
    """Bytes of a frozen weight: of ``dtype``, or of the type that stages choose here for auto."""
    if base.quantize:
        return 1  # 4 bits and scales, and plain embeddings and head: 0.6 and less, 1.1 with int8
    if base.dtype != "auto":
        return {"float32": 4, "bfloat16": 2}[base.dtype]
    if machine.gpus:
        return 2 if machine.gpu_bf16 else 4
    import torch  # slow to import

    from palimpsest.engine.device import resolve_dtype

    return resolve_dtype("auto", torch.device("cpu")).itemsize


def _gpus() -> tuple[int | None, bool]:
    """Memory of the smallest GPU (None if unknown), and whether all compute bfloat16."""
    query = "--query-gpu=memory.total,compute_cap"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        lines = [line.split(",") for line in done.stdout.splitlines()]
        memory = min(int(megabytes) for megabytes, _ in lines) << 20
        versions = [[int(number) for number in version.split(".")] for _, version in lines]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, True
    return memory, all(map(computes_bf16, versions))
