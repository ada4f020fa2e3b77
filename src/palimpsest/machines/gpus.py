"""The GPUs that a job may use, found without torch.

``nvidia-smi -L`` comes first: it is part of the driver, knows containers, WSL and MIG devices, and
lists names (UUIDs) that are the same in every process. Some containers lack it; then the driver's
files in /proc list the GPUs, without MIG devices. Torch would fix the visible GPUs of the process
before it has leased one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"

COUNT = "PALIMPSEST_GPUS"
"""Assumed number of GPUs: for tests, and for machines where GPUs cannot be listed."""

DEVICE = "PALIMPSEST_DEVICE"
"""``cpu``: compute on the CPU, whatever GPUs there are."""

_DRIVER = Path("/proc/driver/nvidia/gpus")
_SECONDS = 120  # with eight GPUs and a driver that sleeps, nvidia-smi takes tens of seconds
_GPU = re.compile(r"^GPU (\d+):.*\(UUID: (\S+)\)")
_MIG = re.compile(r"^\s+MIG (?:\S*?\.(\d+)gb)?.*\(UUID: (\S+)\)")


def wants_cpu(environ: Mapping[str, str]) -> bool:
    """Whether the user chose the CPU.

    Raises:
        UserError: the variable names something else.
    """
    chosen = environ.get(DEVICE, "")
    if chosen not in ("", "cpu"):
        raise UserError(f"{DEVICE} is 'cpu' or empty, not '{chosen}'; GPUs are used by themselves")
    return chosen == "cpu"


def computes_bf16(capability: Sequence[int]) -> bool:
    """Whether a GPU of this compute capability, e.g. (8, 0), multiplies bfloat16 in hardware."""
    return capability[0] >= 8


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG device of one.

    Attributes:
        name: what CUDA_VISIBLE_DEVICES calls it.
        uuid: its identity: two names with the same `uuid` mean one device.
        bytes: memory of a MIG device, by the name of its profile; None of a whole GPU.
    """

    name: str
    uuid: str
    bytes: int | None = None


def usable(environ: Mapping[str, str]) -> list[Gpu]:
    """GPUs that this process may use: none, those of CUDA_VISIBLE_DEVICES, or all of the machine.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names something that is not in the machine, or a GPU that is
            divided into MIG devices.
    """
    visible = environ.get(VISIBLE)
    if job := environ.get("SLURM_JOB_ID"):
        # SLURM counts a job's GPUs from 0, so the numbers mean something within the job alone.
        return [Gpu(name, f"slurm-{job}-{name}") for name in names(visible or "")]
    if visible is not None and not names(visible):
        return []
    all_gpus = _listed(environ)
    if not all_gpus:
        return []
    named = _units(all_gpus) if visible is None else [_find(n, all_gpus) for n in names(visible)]
    once: dict[str, Gpu] = {}
    for gpu in named:
        once.setdefault(gpu.uuid, gpu)
    return list(once.values())


def has_gpu(environ: Mapping[str, str]) -> bool:
    """Whether a process may use a GPU; where the variables are wrong, its job says so."""
    try:
        return bool(usable(environ))
    except UserError:
        return True


def names(visible: str) -> list[str]:
    """Devices that CUDA_VISIBLE_DEVICES names; as in CUDA, the list ends at the first wrong one."""
    devices = []
    for name in (word.strip() for word in visible.split(",")):
        if not name or name.startswith("-") or name == "NoDevFiles":
            break
        devices.append(name)
    return devices


@dataclass(frozen=True)
class _Listed:
    gpu: Gpu
    parts: tuple[Gpu, ...] = ()


def _listed(environ: Mapping[str, str]) -> list[_Listed]:
    if count := environ.get(COUNT):
        if not count.isdecimal():
            raise UserError(f"{COUNT} is a whole number of GPUs, not '{count}'")
        return [_Listed(Gpu(str(n), f"assumed-{n}")) for n in range(int(count))]
    return _from_nvidia_smi() or _from_driver()


def _from_nvidia_smi() -> list[_Listed]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    # It may be installed on a machine without a GPU, where it fails.
    return _parsed(done.stdout) if done.returncode == 0 else []


def _parsed(listing: str) -> list[_Listed]:
    listed: list[_Listed] = []
    for line in listing.splitlines():
        if gpu := _GPU.match(line):
            listed.append(_Listed(Gpu(gpu[1], gpu[2])))
        elif (mig := _MIG.match(line)) and listed:
            size = int(mig[1]) << 30 if mig[1] else None
            parts = (*listed[-1].parts, Gpu(mig[2], mig[2], size))
            listed[-1] = _Listed(listed[-1].gpu, parts)
    return listed


def _from_driver() -> list[_Listed]:
    # One folder per GPU, named by its place on the bus: CUDA_DEVICE_ORDER=PCI_BUS_ID.
    texts = [file.read_text() for file in sorted(_DRIVER.glob("*/information"))]
    uuids = [re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)$", text, re.MULTILINE) for text in texts]
    # The driver lists no UUID of a GPU that no process has opened yet.
    return [_Listed(Gpu(str(n), uuid[1] if uuid else f"gpu-{n}")) for n, uuid in enumerate(uuids)]


def _units(all_gpus: Sequence[_Listed]) -> list[Gpu]:
    return [unit for listed in all_gpus for unit in (listed.parts or (listed.gpu,))]


def _find(name: str, all_gpus: Sequence[_Listed]) -> Gpu:
    """The GPU that CUDA would take for `name`: a number, a UUID or the beginning of one."""
    for listed in all_gpus:
        if name == listed.gpu.name or _begins(listed.gpu.uuid, name, "GPU-"):
            if listed.parts:
                raise UserError(
                    f"{VISIBLE} names {name}, a GPU that is divided into MIG devices; name those: "
                    + ", ".join(part.name for part in listed.parts)
                )
            return Gpu(name, listed.gpu.uuid)
        for part in listed.parts:
            if _begins(part.uuid, name, "MIG-"):
                return Gpu(name, part.uuid, part.bytes)
    if name.startswith("MIG-"):
        return Gpu(name, name)  # older spellings of MIG devices are not in the list
    raise UserError(
        f"{VISIBLE} names {name}, but the GPUs here are: "
        + ", ".join(f"{unit.name} ({unit.uuid})" for unit in _units(all_gpus))
    )


def _begins(uuid: str, name: str, kind: str) -> bool:
    return name.startswith(kind) and len(name) > len(kind) and uuid.startswith(name)
