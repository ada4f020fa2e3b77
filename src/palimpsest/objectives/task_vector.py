"""Plain task-vector negation (arXiv:2212.04089), the ablation of SKU without its other terms.

Stage 1 learns the forget rows F, with l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j)::

    L = mean_{(x,y) in F} l(x, y)

Stage 2 (`negate`) takes theta_o - lambda (theta_m - theta_o).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.settings.draw import Draw
from palimpsest.settings.method import AcquireSettings

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Settings(AcquireSettings):
    """Settings of plain task-vector negation."""

    algorithm: Literal["task_vector"]
    """Learn, then subtract."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    return {"forget": Draw(s.rows.forget, ("forget",))}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """The one term of a step."""
    return {"forget": streams["forget"].nll().mean()}
