"""Rounding weights to a few bits and back: own grids, and those of GGUF files.

Weights are divided along the inputs of their layer, as every format does. What is computed here
are the values that a quantised model has; its speed and its memory are not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest.attacks.quantize import FP4, NF4, Rtn, grid_of


@dataclass(frozen=True)
class Rounded:
    """A matrix on a grid.

    Attributes:
        values: what the weights are now, [outputs, inputs], fp32.
        codes: the place of each on the grid of its group, of the same shape, integers.
    """

    values: Tensor
    codes: Tensor


Rounding = Callable[[Tensor], Rounded | None]
"""Takes [outputs, inputs]; None: the format has no place for a layer with this number of inputs."""


def rounding(name: str) -> Rounding:
    """The rounding of a grid's name, see `palimpsest.attacks.quantize.grid_of`."""
    grid = grid_of(name)
    if grid in (NF4, FP4):
        return partial(in_blocks, values=nf4_values() if grid == NF4 else FP4_VALUES)
    return partial(nearest, grid=grid) if isinstance(grid, Rtn) else partial(in_gguf, name=grid)


def nearest(weight: Tensor, grid: Rtn) -> Rounded:
    """Each weight to the nearest of 2^b values of its group, half to even.

    Symmetric: step s = max|W| / (2^(b-1) - 1) of the group, codes from -2^(b-1)+1 to 2^(b-1)-1.
    Otherwise s = (max - min) / (2^b - 1) with 0 in the range and a whole zero point. A group of
    zeros stays so. The arithmetic is in float64.

    Args:
        weight: [outputs, inputs].
        grid: bits, inputs of a group, form.
    """
    outputs, inputs = weight.shape
    size = grid.group or inputs
    groups = -(-inputs // size)
    # Zeros at the end of a short group change neither its step nor its values.
    padded = weight.new_zeros(outputs, groups * size, dtype=torch.float64)
    padded[:, :inputs] = weight
    values = padded.view(outputs, groups, size)
    if grid.symmetric:
        top = 2 ** (grid.bits - 1) - 1
        lowest, zero = -top, values.new_zeros(())
        step = values.abs().amax(-1, keepdim=True) / top
    else:
        lowest, top = 0, 2**grid.bits - 1
        least = values.amin(-1, keepdim=True).clamp(max=0)
        step = (values.amax(-1, keepdim=True).clamp(min=0) - least) / top
        zero = _divided(-least, step).round()
    codes = (_divided(values, step).round() + zero).clamp(lowest, top)
    found = (codes - zero) * step
    return Rounded(
        found.view(outputs, -1)[:, :inputs].float(),
        codes.view(outputs, -1)[:, :inputs].to(torch.int32),
    )


def _divided(values: Tensor, step: Tensor) -> Tensor:
    return torch.where(step > 0, values / step, 0)


LOADED_BLOCK = 64
"""Weights that share a scale in NF4 and FP4, counted through the rows."""
_POSITIVE = (1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)
FP4_VALUES = (*(-value for value in reversed(_POSITIVE)), 0.0, *_POSITIVE)
"""The 15 values of FP4 as bitsandbytes has them: two bits of exponent and one of mantissa."""
_NF4_END = 0.9677083
"""Highest quantile of NF4: the mean of 1 - 1/30 and 1 - 1/32."""


@cache
def nf4_values() -> tuple[float, ...]:
    """The 16 values of NF4, ascending: quantiles of a normal distribution, with 0 and both ends.

    Seven are below 0 and eight above, at equal steps of probability (arXiv:2305.14314, appendix E).
    """

    def quantiles(count: int) -> list[float]:
        steps = (_NF4_END + (0.5 - _NF4_END) * place / count for place in range(count))
        return [NormalDist().inv_cdf(step) for step in steps]

    found = sorted([*(-value for value in quantiles(7)), 0.0, *quantiles(8)])
    return tuple(value / found[-1] for value in found)


def in_blocks(weight: Tensor, values: Sequence[float]) -> Rounded:
    """Each weight to the nearest of `values` times the largest amount in its block.

    As bitsandbytes does it without a second rounding of the scales, which is its default.

    Args:
        weight: [outputs, inputs].
        values: ascending, from -1 to 1.
    """
    flat = weight.float().reshape(-1)
    blocks = nn.functional.pad(flat, (0, -len(flat) % LOADED_BLOCK)).view(-1, LOADED_BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    table = torch.tensor(values, dtype=torch.float32, device=weight.device)
    codes = torch.bucketize(_divided(blocks, scale), (table[1:] + table[:-1]) / 2)
    found = (table[codes] * scale).view(-1)[: len(flat)]
    return Rounded(found.view(weight.shape), codes.view(-1)[: len(flat)].view(weight.shape))


def in_gguf(weight: Tensor, name: str) -> Rounded | None:
    """Quantised and dequantised by llama.cpp's own Python package.

    Args:
        weight: [outputs, inputs].
        name: of the format, ``q4_0``.

    Returns:
        None if the inputs cannot be divided into blocks.
    """
    from gguf import quants
    from gguf.constants import GGMLQuantizationType

    kind = GGMLQuantizationType[name.upper()]
    if weight.shape[1] % BLOCK:
        return None
    packed = quants.quantize(weight.float().cpu().numpy(), kind)
    values = torch.from_numpy(quants.dequantize(packed, kind)).to(weight.device)
    codes = torch.from_numpy(_codes(packed, name)).reshape(weight.shape).to(weight.device)
    return Rounded(values, codes)


BLOCK = 32
"""Weights of a block in the formats of GGUF that are used here."""

_SCALES = {"q4_0": 2, "q4_1": 4, "q8_0": 2}
"""Bytes of a block before its codes: an fp16 step, and for Q4_1 an fp16 minimum."""


def _codes(packed: np.ndarray, name: str) -> np.ndarray:
    """The codes in GGUF's blocks, [blocks, 32]."""
    four = name.startswith("q4")
    blocks = packed.reshape(-1, _SCALES[name] + BLOCK // (2 if four else 1))
    codes = blocks[:, _SCALES[name] :]
    # Low halves of the bytes are the first sixteen codes, high halves the others.
    return np.concatenate([codes & 15, codes >> 4], axis=1) if four else codes.view(np.int8)
