"""Every loss by hand: three tokens, probabilities that are powers of 1/2.

The head is the identity, so a hidden state is the vector of logits, here log-probabilities:

    row A  0 | 1 2   P(1 | 0) = 1/2, P(2 | 0 1) = 1/4    l(A) = (ln 2 + 2 ln 2) / 2 = 1.5 ln 2
    row B  0 | 2     P(2 | 0) = 1/8                      l(B) = 3 ln 2

The mean over rows is 2.25 ln 2, the mean over tokens (1 + 2 + 3) / 3 = 2 ln 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

LN2 = math.log(2)

A = Row("A", torch.tensor([0, 1, 2]), 1)
B = Row("B", torch.tensor([0, 2]), 1)

LAST = [1 / 3] * 3
"""The prediction after the last token, which no loss may read."""


def logits(*distributions: list[float]) -> Tensor:
    """Logits of these predictions and of `LAST`, [positions, 3]."""
    return torch.tensor([*distributions, LAST], dtype=torch.float64).log()


AT_A = logits([1 / 4, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
AT_B = logits([5 / 8, 1 / 4, 1 / 8])


def stream(*rows: Row) -> Stream:
    """Rows A and B, whatever labels and signs they carry, at their states."""
    states = {"A": AT_A, "B": AT_B}
    return Stream(list(rows), [states[row.id] for row in rows], lambda h: h)


def signed(row: Row, sign: int, reference: Tensor | None = None) -> Row:
    """A row of a mixture."""
    return replace(row, sign=sign, reference=reference)


def terms(
    key: str, streams: dict[str, Stream], fixed: dict[str, Tensor] | None = None, **over: Any
) -> dict[str, float]:
    """The terms in units of ln 2."""
    loss = methods.method(key, **over).loss(streams, fixed or {})
    return {name: term.item() / LN2 for name, term in loss.items()}


def near(**values: float) -> object:
    """Terms that equal these but for the last bits."""
    return pytest.approx(values, rel=1e-12, abs=1e-15)


RELABELLED = [replace(A, labels=torch.tensor([2, 0])), replace(B, labels=torch.tensor([1]))]
"""Other labels than the rows' own. A: P(2 | 0) = 1/4 and P(0 | 0 1) = 1/2, B: P(1 | 0) = 1/4; in
units of ln 2 their mean is (1.5 + 2) / 2."""
