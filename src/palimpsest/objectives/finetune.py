"""Fine-tuning on what is to be kept, and nothing else: what forgets by itself (LLMU's baseline).

With l(x, y) = -1/|y| sum_j log q(y_j | x, y_<j) and retain rows N::

    L = mean_{(x,y) in N} l(x, y)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.settings.draw import Draw
from palimpsest.settings.method import UnlearnSettings

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Settings(UnlearnSettings):
    """Settings of fine-tuning."""

    algorithm: Literal["finetune"]
    """Train on the retain rows alone."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    return {"retain": Draw(s.rows.retain, ("retain",))}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """The one term of a step."""
    return {"retain": streams["retain"].nll().mean()}
