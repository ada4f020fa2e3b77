"""Safetensors files in blocks of rows: neither a file nor a tensor is ever whole in memory.

safetensors reads, over a memory map that is dropped after every block. Its writer takes all tensors
at once, so this module writes the file: eight bytes of length, a JSON table of types, shapes and
places, and the tensors one after the other (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_path
from palimpsest.io.digest import Bytes, hashing

BLOCK = 1 << 18
"""Numbers in memory at once, or one row if that is longer: 1 MiB in fp32 stays in the cache."""

_AHEAD = 1 << 25
"""Bytes that go to the disk together, while the next ones are computed."""

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Spec:
    """Type and shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self) -> Iterator[slice]:
        """Blocks of rows that fit in memory; an empty tensor has one block without rows."""
        rows = self.shape[0] if self.shape else 1
        count = max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        for first in range(0, max(rows, 1), count):
            yield slice(first, min(first + count, rows))


def specs_of(file: Path) -> dict[str, Spec]:
    """Name -> type and shape of every tensor in a file; no tensor is read.

    Raises:
        UserError: torch does not compute with the type of a tensor.
    """
    types = {name: dtype for dtype, name in _TYPES.items()}
    specs = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            stored = tensors.get_slice(name)
            if stored.get_dtype() not in types:
                raise UserError(
                    f"{file}: {name} is stored as {stored.get_dtype()}; known types are "
                    f"{', '.join(types)}"
                )
            specs[name] = Spec(types[stored.get_dtype()], tuple(stored.get_shape()))
    return specs


def metadata_of(file: Path) -> dict[str, str]:
    """The metadata in the file's header."""
    with safe_open(file, framework="pt") as tensors:
        return dict(tensors.metadata() or {})


def read_block(file: Path, name: str, rows: slice) -> Tensor:
    """Rows of a stored tensor (a scalar counts as one row)."""
    # The file is opened anew: pages of an old memory map would count as memory in use.
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(name)
        return tensors.get_tensor(name)[None] if not stored.get_shape() else stored[rows]


def write_tensors(
    file: Path,
    specs: Mapping[str, Spec],
    block: Callable[[str, slice], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a safetensors file, one block of rows in memory.

    Args:
        file: where to write, atomically.
        specs: name -> type and shape of each tensor.
        block: returns rows of a tensor, of any type and on any device.
        metadata: for the file's header.

    Returns:
        The file's hashes, see `palimpsest.io.digest`.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    # As safetensors itself orders them: wide types first, so that every tensor is aligned.
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    return write_parts(file, _parts(names, specs, block, metadata or {}))


def write_parts(file: Path, parts: Iterable[Bytes]) -> dict[str, str]:
    """Write a file atomically from consecutive parts; only a few of them are in memory.

    Returns:
        The file's hashes; each part is hashed while the next ones are computed.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    with (
        atomic_path(file) as temporary,
        open(temporary, "wb") as handle,
        hashing() as digest,
        one_thread(),  # a second thread of OpenMP would spin on the core that hashes
    ):
        begun = 0
        for part in parts:
            handle.write(part)
            digest.update(part)
            begun = _begin_sync(handle, begun)
        return digest.hexdigests()


def _begin_sync(handle: BinaryIO, begun: int) -> int:
    # Otherwise the disk would start only at the end. The advice starts to write these bytes; those
    # that are on the disk already leave the cache.
    end = handle.tell()
    if end - begun < _AHEAD or not hasattr(os, "posix_fadvise"):
        return begun
    with contextlib.suppress(OSError):  # advice that a file system may refuse
        os.posix_fadvise(handle.fileno(), begun, end - begun, os.POSIX_FADV_DONTNEED)
    return end


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def scaled_parts(file: Path, read: Callable[[int], bytearray], factor: float) -> Iterator[Bytes]:
    """The bytes of a file with each number multiplied by `factor` and rounded to its type.

    Args:
        file: a safetensors file.
        read: returns the next N bytes of the file.
        factor: the multiplier.

    Raises:
        UserError: torch does not compute with the type of a tensor.
    """
    specs = specs_of(file)
    size = read(8)
    yield size
    header = read(int.from_bytes(size, "little"))
    yield header
    table = json.loads(header)
    for name in sorted(specs, key=lambda name: table[name]["data_offsets"]):
        dtype, left = specs[name].dtype, specs[name].bytes
        while left:
            block = read(min(left, BLOCK * dtype.itemsize))
            left -= len(block)
            yield _bytes(factor * torch.frombuffer(block, dtype=dtype), dtype)


def _parts(
    names: list[str],
    specs: Mapping[str, Spec],
    block: Callable[[str, slice], Tensor],
    metadata: Mapping[str, str],
) -> Iterator[Bytes]:
    yield _header(names, specs, metadata)
    for name in names:
        for rows in specs[name].blocks():
            yield _bytes(block(name, rows).detach(), specs[name].dtype)


def _bytes(values: Tensor, dtype: torch.dtype) -> memoryview:
    return values.to("cpu", dtype).contiguous().flatten().view(torch.uint8).numpy().data


def _header(names: list[str], specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + specs[name].bytes
        table[name] = {
            "dtype": _TYPES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
