"""The mean of a term's values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean(values: Tensor) -> Tensor:
    """Mean of values [n]; of none (a batch whose labels are all ignored) 0, within the graph."""
    return values.sum() / max(len(values), 1)
