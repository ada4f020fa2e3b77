"""Fine-tuning on random labels (KnowUnDo's baseline, arXiv:2407.01920).

Each answer token y_t of a forget row keeps its true context and is given a target r_t, drawn once,
uniformly over the ordinary tokens of the vocabulary::

    L = mean_{(x,y) in F} -1/|y| sum_t log q(r_t | x, y_<t)
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
    """Settings of fine-tuning on random labels."""

    algorithm: Literal["random_labels"]
    """Descend on random targets."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    return {"forget": Draw(s.rows.forget, ("forget",), labels="random")}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """The one term of a step."""
    return {"forget": streams["forget"].nll().mean()}
