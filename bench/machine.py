"""The machine of the figures."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch
import transformers

from palimpsest.engine.device import resolve_dtype

INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
"""Instruction sets that matter for matrix products."""


def machine() -> dict[str, str | int]:
    """Processor, GPU, versions, and the number type that the engine chooses."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cpu = _processor()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": ", ".join(name for name in INSTRUCTIONS if name in flags) or "unknown",
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(resolve_dtype("auto", device)).removeprefix("torch."),
    }


def _processor() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    first = file.read_text().split("\n\n")[0] if file.exists() else ""
    return {key.strip(): value.strip() for key, value in re.findall(r"^(.*?):(.*)$", first, re.M)}
