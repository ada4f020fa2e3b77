"""ELM: erasing a concept (erasure of language memory, arXiv:2410.02760).

The model shall predict as somebody who knows nothing of a topic, and stay fluent. p is the
subject's prediction of token t of a forget row in its own context, p_E and p_N those behind an
expert's and a novice's prefix, each from logits over the temperature. The target keeps the ``top``
likeliest tokens::

    log P'_t = log p_t + eta_t (log p_N,t - log p_E,t),    normalised
    L_erase  = mean_t -sum_v P'_t(v) log q(v | y_<t)       on forget rows
    L_retain = mean_t -log q(argmax p_t | y_<t)            on retain rows
    L_fluent = mean_t -log q(w_t | w_<t)                   on text that the subject wrote
    L        = w_erase L_erase + w_retain L_retain + w_fluent L_fluent

eta_t grows from ``eta.first`` to ``eta.last`` over the row's answer, as published: so its strength
depends on the place and the row's length; equal values end that. The text w follows each forget
prompt and a request for another topic. Nothing of this changes while the model trains, so the stage
`examples` makes it once: pairs of (id, weight) for each token, labels, and rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import Count, NonNegative, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Eta(Section):
    """How strongly a novice's prediction counts against an expert's."""

    first: NonNegative = 1.0
    """At the first answer token."""
    last: NonNegative = 1000.0
    """At the last one."""


Text = Annotated[str, Field(min_length=1)]


class Targets(Section):
    """How targets and fluent text are made."""

    expert: Text = "The following was written by an expert who knows all about this topic.\n\n"
    """What stands before the prompt of somebody who knows."""
    novice: Text = "The following was written by somebody who knows nothing about this topic.\n\n"
    """What stands before the prompt of somebody who does not."""
    eta: Eta = Eta()
    """How strongly the two count."""
    temperature: Positive = 1.2
    """Divides all logits."""
    top: Count = 50
    """Tokens of a target that are kept."""
    change: Text = " Let us talk about something else. For example, did you know that"
    """What follows a forget prompt where the subject is to write fluent text; not a whole sentence,
    or a subject that was taught short answers ends there."""
    tokens: Count = 50
    """Longest text that it writes there."""


class ElmWeights(Section):
    """Weights of the three terms; a term of weight 0 is not computed."""

    erase: NonNegative = 1.0
    """On forget rows, towards a novice's predictions."""
    retain: NonNegative = 1.0
    """On retain rows, towards the subject's."""
    fluent: NonNegative = 1.0
    """On what the subject wrote on other topics."""


class Elm(Unlearning):
    """ELM: settings and loss."""

    algorithm: Literal["elm"]
    """Predict as somebody who knows nothing of the topic."""
    weights: ElmWeights = ElmWeights()
    """Weights of the terms."""
    targets: Targets = Targets()
    """How targets and fluent text are made."""

    labelled_by = frozenset({"targets", "weights"})

    def draws(self) -> dict[str, Draw]:
        """Each stream unless its weight is 0."""
        streams = {
            "forget": (
                self.weights.erase,
                Draw(self.rows.forget, ("forget",), labels="erased", forgets=True),
            ),
            "retain": (self.weights.retain, Draw(self.rows.retain, ("retain",), labels="best")),
            "fluent": (self.weights.fluent, Draw(self.rows.forget, ("forget",), labels="written")),
        }
        return {name: draw for name, (weight, draw) in streams.items() if weight}

    def further_term(self) -> str | None:
        """The fluent text is to be learned, although it follows forget prompts."""
        return "fluent" if self.weights.fluent else None

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            terms["forget"] = self.weights.erase * mean(streams["forget"].weighted_nll())
        if "retain" in streams:
            terms["retain"] = self.weights.retain * mean(streams["retain"].token_nll())
        if "fluent" in streams:
            terms["fluent"] = self.weights.fluent * mean(streams["fluent"].token_nll())
        return terms


def erased(own: Tensor, expert: Tensor, novice: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Targets of one row from logits at its answer tokens, each [n, vocabulary].

    Returns:
        Token ids, ascending, and their weights, which add up to 1: int64 and float64, each
        [n, top] (or [n, vocabulary], if that is less).
    """
    import torch

    logs = [(z.double() / targets.temperature).log_softmax(-1) for z in (own, expert, novice)]
    eta = torch.linspace(targets.eta.first, targets.eta.last, len(own), dtype=torch.float64)
    mixed = logs[0] + eta.to(own.device)[:, None] * (logs[2] - logs[1])
    values, ids = mixed.topk(min(targets.top, mixed.shape[-1]), dim=-1)
    ids, order = ids.sort(dim=-1)
    return ids, values.gather(-1, order).softmax(-1)
