"""Pretraining: learn everything that the subject is to know before unlearning.

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j) and the rows D that are taught::

    L = mean_{(x,y) in D} l(x, y)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Objective
from palimpsest.settings.draw import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Teaching(Objective):
    """Fine-tuning on the rows that are taught, ``rows.retain`` of them in a step."""

    algorithm: Literal["teaching"] = "teaching"
    """Train on the rows that are taught."""

    def draws(self) -> dict[str, Draw]:
        """One stream of the rows that are taught."""
        return {"rows": Draw(self.rows.retain, ("taught",))}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"nll": streams["rows"].nll().mean()}
