"""Fine-tuning on adversarial labels (KnowUnDo's baseline, arXiv:2407.01920).

Each answer token y_t of a forget row keeps its true context and is given the target that the
subject p finds likeliest of all but the right one::

    a_t = argmax_{v != y_t} p(v | x, y_<t)
    L   = mean_{(x,y) in F} -1/|y| sum_t log q(a_t | x, y_<t)

The released code takes a_t from the bare chat model, and from the logits one position too late.
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
    """Settings of fine-tuning on adversarial labels."""

    algorithm: Literal["adversarial_labels"]
    """Descend on the subject's best wrong guesses."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    return {"forget": Draw(s.rows.forget, ("forget",), labels="adversarial")}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """The one term of a step."""
    return {"forget": streams["forget"].nll().mean()}
