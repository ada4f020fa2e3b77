"""What this machine has: GPUs, memory, disk, processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.config.schema import Base
from palimpsest.io.artifacts import NUMBER_TYPE
from palimpsest.io.sealed import read_document
from palimpsest.machines.gpus import Gpu, computes_bf16, usable, wants_cpu
from palimpsest.machines.memory import memory_bytes
from palimpsest.pipeline.plan.times import PRODUCTS, SHARE

FILLED = 0.95
"""Share of a memory that one job may take."""

WIDTHS = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""


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
        gpu_rate: operations a second of the slowest of them, None where its kind is not known.
        gpu_fault: why torch cannot use them; None: it can.
    """

    gpus: int
    gpu_bytes: int | None
    ram_bytes: int
    disk_bytes: int
    cores: int
    gpu_bf16: bool = True
    gpu_rate: float | None = None
    gpu_fault: str | None = None

    def holds(self, device: float, ram: float) -> bool:
        """Whether a job of these needs, in bytes, fits."""
        on_gpu = not self.gpus or self.gpu_bytes is None or device <= FILLED * self.gpu_bytes
        return on_gpu and ram <= FILLED * self.ram_bytes


def this_machine(environ: Mapping[str, str] = os.environ) -> Machine:
    """This machine; nothing is computed on a GPU.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names something that is not in the machine.
    """
    gpus = [] if wants_cpu(environ) else usable(environ)
    memory, capabilities = _gpus(gpus) if gpus else ([], [])
    rates = [PRODUCTS[kind] * SHARE for kind in capabilities if kind in PRODUCTS]
    return Machine(
        gpus=len(gpus),
        gpu_bytes=min(memory, default=None),
        ram_bytes=memory_bytes(),
        disk_bytes=shutil.disk_usage(Path()).free,
        cores=len(os.sched_getaffinity(0)),
        gpu_bf16=all(map(computes_bf16, capabilities)),
        gpu_rate=min(rates) if rates and len(rates) == len(capabilities) else None,
        gpu_fault=_gpu_fault() if gpus else None,
    )


def _gpu_fault() -> str | None:
    from palimpsest.engine.device import why_unusable  # slow to import

    return why_unusable()


def width_of(base: Base, machine: Machine, folder: Path) -> int:
    """Bytes of a frozen weight: of ``dtype``; for auto of the recorded type, else of this device's.

    Args:
        base: its configuration.
        machine: where jobs would run.
        folder: ``resources/models/<base>``.
    """
    if base.quantize:
        return 1  # 4 bits and scales, and plain embeddings and head: 0.6 and less, 1.1 with int8
    record = folder / NUMBER_TYPE
    name = base.dtype
    if name == "auto" and record.is_file():
        name = read_document(record).get("dtype", "auto")
    if name in WIDTHS:
        return WIDTHS[name]
    if machine.gpus:
        return 2 if machine.gpu_bf16 else 4
    import torch  # slow to import

    from palimpsest.engine.device import resolve_dtype

    return resolve_dtype("auto", torch.device("cpu")).itemsize


def _gpus(chosen: Sequence[Gpu]) -> tuple[list[int], list[tuple[int, int]]]:
    """Memory in bytes and compute capability of the chosen GPUs, as far as they are known.

    Where none of them is in the list (SLURM counts its own), all GPUs of the list count.
    """
    query = "--query-gpu=uuid,memory.total,compute_cap"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        lines = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
        cards = {uuid: (int(megabytes) << 20, _version(kind)) for uuid, megabytes, kind in lines}
    except (OSError, ValueError, subprocess.SubprocessError):
        return [gpu.bytes for gpu in chosen if gpu.bytes], []
    named = [cards[gpu.uuid] for gpu in chosen if gpu.uuid in cards]
    parts = [gpu.bytes for gpu in chosen if gpu.bytes]
    counted = named or list(cards.values())
    memory = [*parts, *(size for size, _ in (named if parts else counted))]
    return memory, [kind for _, kind in counted]


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)
