"""The device and the number type of the model."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import MutableMapping

import torch

from palimpsest.engine import ranks
from palimpsest.errors import UserError, one_line
from palimpsest.machines.gpus import DEVICE, VISIBLE, computes_bf16, usable, wants_cpu

BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of bfloat16 instructions in ``torch.cpu.get_capabilities()``: two of x86, one of ARM."""


KERNELS = 128
"""Compiled products that torch keeps on a CPU, half a megabyte each and one per shape: steps differ
in length, so that of its own 1,024 hardly one is used again."""

DRIVERS = {"13": "580", "12": "525", "11": "450"}
"""Version of CUDA that torch is built with -> the oldest NVIDIA driver that runs it."""


def set_up(threads: int | None = None) -> torch.device:
    """Make arithmetic repeatable and return the device: CUDA if there is a GPU, else the CPU.

    The processes of a job connect here, and each gets its own device.

    Args:
        threads: CPU threads of the job; results repeat to the byte at a fixed number alone.

    Raises:
        UserError: there is a GPU, and torch cannot use it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Steps differ in length and caches grow: blocks of a fixed size would leave gaps.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNELS))
    device = chosen_device(os.environ)
    count = ranks.join().count
    torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // count))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills new memory, which costs a twentieth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def chosen_device(environ: MutableMapping[str, str]) -> torch.device:
    """The device of a job whose GPUs are leased.

    Raises:
        UserError: there is a GPU, and torch cannot use it. A large model would run on the CPU for
            days before anybody noticed.
    """
    if wants_cpu(environ):
        environ[VISIBLE] = ""
        return torch.device("cpu")
    # Listing GPUs may take seconds: only where torch finds none.
    available = torch.cuda.is_available()
    if (available or usable(environ)) and (fault := why_unusable()):
        raise UserError(
            f"the GPU cannot be used: {fault}. To run on the CPU instead: --resources gpu=0, or "
            f"{DEVICE}=cpu"
        )
    return torch.device("cuda" if available else "cpu")


def why_unusable() -> str | None:
    """Why torch cannot use this machine's GPUs, and the way out; None if it can."""
    version = torch.version.cuda
    if version is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install the one from PyPI, or one "
            "for your CUDA (https://pytorch.org/get-started)"
        )
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            reason = "torch finds none"
        except (RuntimeError, AssertionError) as error:
            reason = one_line(str(error).strip().partition("\n")[0])
        oldest = DRIVERS.get(version.partition(".")[0])
        need = f" (driver {oldest} or newer)" if oldest else ""
        return (
            f"{reason.rstrip('.')}; torch {torch.__version__} needs CUDA {version}{need}: install "
            "a newer driver, or a torch for an older CUDA (https://pytorch.org/get-started)"
        )
    capability, compiled = torch.cuda.get_device_capability(), _compiled_capabilities()
    if compiled and capability < min(compiled):
        words = ["{}.{}".format(*c) for c in (capability, min(compiled))]
        return (
            f"it has compute capability {words[0]}, and torch {torch.__version__} begins at "
            f"{words[1]}; install a torch for an older CUDA (https://pytorch.org/get-started)"
        )
    return None


def _compiled_capabilities() -> list[tuple[int, int]]:
    # sm_90a: 9.0, with instructions of this architecture alone
    found = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", n) for n in torch.cuda.get_arch_list()]
    return [(int(match[1]), int(match[2])) for match in found if match]


def device_name(device: torch.device) -> str:
    """What a device is called in records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


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
        capability = torch.cuda.get_device_capability(device)
        if not computes_bf16(capability):
            _say_fp32("{}.{}".format(*capability))
        return computes_bf16(capability)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BF16)


@functools.cache
def _say_fp32(capability: str) -> None:
    if not ranks.current().rank:
        print(
            f"this GPU (compute capability {capability}) does not compute bfloat16: weights are "
            "float32, twice the memory",
            file=sys.stderr,
            flush=True,
        )
