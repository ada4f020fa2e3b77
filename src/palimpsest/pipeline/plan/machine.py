"""What this machine has: GPUs, memory, disk, processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from palimpsest.config.schema import Base
from palimpsest.machines.gpus import usable


@dataclass(frozen=True)
class Machine:
    """What jobs would run on; memory in bytes.

    Attributes:
        gpus: GPUs that may be used.
        gpu_bytes: memory of the smallest of them, None where it is not known.
        ram_bytes: main memory.
        disk_bytes: free space where the project is.
        cores: processors.
    """

    gpus: int
    gpu_bytes: int | None
    ram_bytes: int
    disk_bytes: int
    cores: int


def this_machine(environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine; no GPU is touched.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names something that is not in the machine.
    """
    gpus = len(usable(environ))
    return Machine(
        gpus=gpus,
        gpu_bytes=_gpu_bytes() if gpus else None,
        ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=shutil.disk_usage(Path()).free,
        cores=len(os.sched_getaffinity(0)),
    )


def width_of(base: Base, machine: Machine) -> int:
    """Bytes of a frozen weight: of ``dtype``, or of the type that stages choose here for auto."""
    if base.dtype != "auto":
        return {"float32": 4, "bfloat16": 2}[base.dtype]
    if machine.gpus:
        return 2
    import torch  # slow, and only needed where the processor has to be tried

    from palimpsest.engine.device import resolve_dtype

    return resolve_dtype("auto", torch.device("cpu")).itemsize


def _gpu_bytes() -> int | None:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return min(int(line) for line in done.stdout.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
