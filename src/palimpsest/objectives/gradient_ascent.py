"""Gradient ascent on what is to be forgotten (baseline of LLMU, arXiv:2310.10683, and KnowUnDo).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j) and forget rows F::

    L = -mean_{(x,y) in F} l(x, y)

The loss has no lower bound; ``stop_above`` ends training once the rows are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.stopping import forgotten
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class GradientAscent(Unlearning):
    """Gradient ascent: settings and loss."""

    algorithm: Literal["gradient_ascent"]
    """Ascend on the forget rows."""
    stop_above: Positive | None = None
    """Stop once a step's forget rows cost more than this (mean nats per token)."""

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {"forget": Draw(self.rows.forget, ("forget",))}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"forget": -streams["forget"].nll().mean()}

    def finished(self, streams: Mapping[str, Stream]) -> str | None:
        """The forget rows cost more than ``stop_above``."""
        return forgotten(streams["forget"], self.stop_above)
