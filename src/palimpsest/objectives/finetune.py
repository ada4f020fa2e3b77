"""Fine-tuning on retain rows alone: shows what a model forgets by itself (LLMU's baseline).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j) and retain rows N::

    L = mean_{(x,y) in N} l(x, y)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Finetune(Unlearning):
    """Fine-tuning: settings and loss."""

    algorithm: Literal["finetune"]
    """Train on the retain rows alone."""

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {"retain": Draw(self.rows.retain, ("retain",))}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"retain": streams["retain"].nll().mean()}
