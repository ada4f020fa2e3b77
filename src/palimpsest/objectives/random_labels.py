"""Fine-tuning on random labels (KnowUnDo's baseline, arXiv:2407.01920).

Each answer token y_t of a forget row keeps its true context and gets a target r_t, drawn once,
uniformly over the ordinary tokens of the vocabulary::

    L = mean_{(x,y) in F} -1/|y| sum_t log q(r_t | x, y_<t)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class RandomLabels(Unlearning):
    """Fine-tuning on random labels: settings and loss."""

    algorithm: Literal["random_labels"]
    """Descend on random targets."""

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {"forget": Draw(self.rows.forget, ("forget",), labels="random")}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"forget": streams["forget"].nll().mean()}
