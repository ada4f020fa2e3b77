"""Inputs of the golden values of the four Analysis360 losses.

The inputs are those of the specification: 6 positions, of which the first two are pads, 11 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

POSITIONS, VOCABULARY, WIDTH = 6, 11, 5
IDS = [2, 2, 7, 1, 10, 4]
REAL = 2
"""First position that is no pad."""


def grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Numbers of rows, [rows, 1], and of columns, [1, columns]."""
    return (
        torch.arange(rows, dtype=torch.float64)[:, None],
        torch.arange(columns, dtype=torch.float64)[None],
    )


T, V = grid(POSITIONS, VOCABULARY)
LOGITS = 3 * (1.7 * T + 0.9 * V).sin()
LABELS = torch.tensor([-100] * REAL + IDS[REAL:])
STATES = [
    (0.3 * (level + 1) * grid(6, 5)[0] + 0.8 * grid(6, 5)[1] + 0.2 * level).cos()
    for level in range(4)
]
TABLE = (2.3 * grid(11, 5)[0] + 1.1 * grid(11, 5)[1]).sin()
CONTROL = torch.arange(1, WIDTH + 1, dtype=torch.float64)
CONTROL = 2 * CONTROL / CONTROL.norm()


def approx(value: float | Sequence[float]) -> object:
    """Equal to nine decimals."""
    return pytest.approx(value, abs=1e-9, rel=0)


def unshifted(logits: Tensor) -> Stream:
    """A stream whose targets stand behind positions 2 to 5."""
    row = Row("golden", torch.tensor([*IDS, 0]), REAL + 1)
    return Stream([row], [torch.cat([logits, logits[:1]])], lambda states: states)


def shifted(logits: Tensor) -> Stream:
    """A stream whose targets are the labels: positions 1 to 4 predict them."""
    return Stream([Row("golden", torch.tensor(IDS), REAL)], [logits], lambda states: states)


def value_and_gradients(
    function: Callable[[Tensor], Tensor], logits: Tensor = LOGITS
) -> tuple[float, float, float]:
    """Value, dL/dz[3,1], dL/dz[2,1]."""
    leaf = logits.clone().requires_grad_(True)
    value = function(leaf)
    assert value.dtype == torch.float64
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient[3, 1].item(), gradient[2, 1].item()
