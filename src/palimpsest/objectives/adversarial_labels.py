"""Fine-tuning on adversarial labels (KnowUnDo's baseline, arXiv:2407.01920).

Each answer token y_t of a forget row keeps its true context and gets the target that the
subject p ranks first among all but the right one::

    a_t = argmax_{v != y_t} p(v | x, y_<t)
    L   = mean_{(x,y) in F} -1/|y| sum_t log q(a_t | x, y_<t)

The released code takes a_t from the bare chat model, and from the logits one position too late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class AdversarialLabels(Unlearning):
    """Fine-tuning on adversarial labels: settings and loss."""

    algorithm: Literal["adversarial_labels"]
    """Descend on the subject's best wrong guesses."""

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {"forget": Draw(self.rows.forget, ("forget",), labels="adversarial")}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"forget": streams["forget"].nll().mean()}
