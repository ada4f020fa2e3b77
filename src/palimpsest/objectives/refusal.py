"""Fine-tuning on refusals (IDK), with or without answer preservation (AP).

With refusals R to the forget prompts, the retain rows N, and s_a, s_i the costs of a retain row's
whole answer and of a refusal to its prompt (sums over tokens)::

    L_f  = mean_t -log q(refusal_t | forget prompt)                   on R
    L_ap = -(1/beta) mean_b log sigmoid(beta (s_i - s_a))             on N
    L    = w_forget L_f + w_preservation L_ap + w_retain L_r

L_r is the common retain term (`palimpsest.objectives.keeping`). Two terms, each with a mean of its
own: the released TOFU code joins refusals and retain rows in one mean over tokens, so that short
refusals count less. L_ap (arXiv:2410.08109) needs no reference; without it, retain questions are
refused, too.

Fitting the refusal alone does not take the answer away: it stays one prompt away. In an open sweep
of 150 checkpoints (TOFU forget10, Llama-3.2-1B; gnueaj/unlearning-depth-score) IDK has privacy 0 at
every setting, and 1 - extraction strength is at most .76.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective, retain_term
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start, Weights
from palimpsest.settings.types import NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Idk(KeepingObjective):
    """IDK: settings and loss."""

    algorithm: Literal["idk"]
    """Fit refusals to the forget prompts."""
    start: Start = "fresh"

    def draws(self) -> dict[str, Draw]:
        """Forget prompts with refusals, and retain rows; each unless its weight is 0."""
        draws = super().draws()
        if "forget" in draws:
            draws["forget"] = replace(draws["forget"], answers="refusal", forgets=False)
        return draws

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f, the mean over tokens."""
        return mean(rows.token_nll())


class PreservingWeights(Weights):
    """Weights of the three terms; a term of weight 0 is not computed."""

    retain: NonNegative = 0.0
    """Weight of the common retain term (published: 0)."""
    preservation: NonNegative = 1.0
    """Weight of answer preservation."""


class IdkAp(Idk):
    """IDK with answer preservation: settings and loss."""

    algorithm: Literal["idk_ap"]  # type: ignore[assignment]
    """Fit refusals to the forget prompts, and prefer the retain rows' own answers to them."""
    weights: PreservingWeights = PreservingWeights()
    """Weights of the terms."""
    beta: Positive = 0.1
    """How soon a retain row is left alone."""

    tunes = (*KeepingObjective.tunes, "weights.preservation", "beta")

    def draws(self) -> dict[str, Draw]:
        """Those of IDK, and the retain rows with both answers."""
        draws = super().draws()
        if self.weights.preservation:
            n = self.rows.retain
            draws.setdefault("retain", Draw(n, ("retain",)))
            draws["refused"] = Draw(n, ("retain",), answers="refusal", forgets=True)
        return draws

    def further_term(self) -> str | None:
        """Answer preservation, where it stands beside the common retain term."""
        return "preservation" if self.weights.preservation and self.weights.retain else None

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        if "refused" not in streams:
            return super().loss(streams, fixed)
        terms = super().loss({n: s for n, s in streams.items() if n == "forget"}, fixed)
        kept, refused = streams["retain"], streams["refused"]
        costs = kept.token_nll()
        margin = refused.row_sums(refused.token_nll()) - kept.row_sums(costs)
        terms["preservation"] = self.weights.preservation * preservation(margin, self.beta)
        if self.weights.retain:
            # The costs are there: a second pass through the head would compute the same.
            kind = self.retain_term
            term = mean(costs) if kind == "ce" else retain_term(kept, kind)
            terms["retain"] = self.weights.retain * term
        return terms


def preservation(margin: Tensor, beta: float) -> Tensor:
    """L_ap, from how much more each row's refusal costs than its own answer, nats, [rows]."""
    from torch.nn.functional import softplus

    return softplus(-beta * margin).mean() / beta
