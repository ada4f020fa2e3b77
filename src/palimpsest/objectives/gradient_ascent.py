"""Gradient ascent on what is to be forgotten (baseline of LLMU, arXiv:2310.10683, and KnowUnDo).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j) and forget rows F::

    L = -mean_{(x,y) in F} l(x, y)

The loss has no lower bound; ``stop_above`` ends training once the rows are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.stopping import forgotten
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import UnlearnSettings
from palimpsest.settings.types import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Settings(UnlearnSettings):
    """Settings of gradient ascent."""

    algorithm: Literal["gradient_ascent"]
    """Ascend on the forget rows."""
    stop_above: Positive | None = None
    """Stop once a step's forget rows cost more than this (mean nats per token)."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    return {"forget": Draw(s.rows.forget, ("forget",))}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """The one term of a step."""
    return {"forget": -streams["forget"].nll().mean()}


def finished(streams: Mapping[str, Stream], s: Settings) -> str | None:
    """Why training ends now."""
    return forgotten(streams["forget"], s.stop_above)
