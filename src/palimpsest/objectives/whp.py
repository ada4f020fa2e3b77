"""WHP: fine-tuning on generic targets ("Who's Harry Potter?", arXiv:2310.02238).

v_base are the subject's logits, v_u those of a reinforced model: the subject with the task vector
of a method that learns the forget rows better. What the reinforced model is surer of is taken off,
and each answer token keeps its true context and gets the likeliest ordinary token of the rest::

    v_generic = v_base - alpha relu(v_u - v_base)
    g_t       = argmax_v v_generic(v | x, y_<t)
    L         = mean_t -log q(g_t | x, y_<t) on F

The labels are made once, by the stage `examples`. MUSE's release subtracts with two models at every
answer in place of training; its alpha is the default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import Positive, Section
from palimpsest.settings.vector import VectorName

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Generic(Section):
    """Where the labels come from."""

    vector: VectorName = "task_vector"
    """Method whose task vector makes the reinforced model: of the run's seed, or method/seed-1."""
    alpha: Positive = 5.0
    """How much is taken off of what the reinforced model is surer of."""


class Whp(Unlearning):
    """WHP: settings and loss."""

    algorithm: Literal["whp"]
    """Descend on what the subject would say without what a reinforced model is surer of."""
    generic: Generic = Generic()
    """Where the labels come from."""

    labelled_by = frozenset({"generic"})

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {"forget": Draw(self.rows.forget, ("forget",), labels="generic")}

    def vectors(self) -> tuple[str, ...]:
        """The one that reinforces the subject."""
        return (self.generic.vector,)

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"forget": mean(streams["forget"].token_nll())}
