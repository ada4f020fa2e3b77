"""Direct preference against a row's own answer (DPO), for refusals (IdkDPO) or alternates (AltPO).

s_b is the cost of row b's whole answer, the sum over its tokens, s'_b that of a wanted answer to
the same prompt; s0_b, s'0_b are the subject's costs of both::

    h_b = (s_b - s0_b) - (s'_b - s'0_b)
    L_f = -(2/beta) mean_b log sigmoid(beta h_b)
    L   = w_forget L_f + w_retain L_r

L_r is the common retain term (`palimpsest.objectives.keeping`). Without wanted answers
(s' = s'0) L_f is NPO's. The factor 2/beta is that of the unlearning papers (arXiv:2404.05868,
arXiv:2409.13474); general preference libraries do not have it, so that beta also rescales their
rate. The gradient stops when the wanted answer alone has become likely enough: look at recall
beside it, and for refusals at the rate of refusals on what is to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean
from palimpsest.settings import method
from palimpsest.settings.draw import Draw, Wanted
from palimpsest.settings.method import Start
from palimpsest.settings.types import NotBool, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


WANTED: dict[str, Wanted] = {"idk_dpo": "refusal", "alt_po": "alternate"}
"""Algorithm -> which answers it prefers to the rows' own."""


class Weights(method.Weights):
    """Weights of the two sides, and whether the forget term has both answers."""

    lost: Annotated[Literal[0, 1], NotBool] = 1
    """1: the row's own answer is made less likely; 0: the wanted answers are fitted alone (the mean
    of their tokens' costs), nothing is compared with the subject."""


class Preference(KeepingObjective):
    """IdkDPO and AltPO: settings and loss."""

    algorithm: Literal["idk_dpo", "alt_po"]
    """Prefer refusals (idk_dpo) or alternates (alt_po) to the rows' own answers."""
    start: Start = "fresh"
    weights: Weights = Weights()
    """Weights of the terms."""
    beta: Positive = 0.1
    """How soon a pair is left alone."""

    tunes = (*KeepingObjective.tunes, "beta")

    def draws(self) -> dict[str, Draw]:
        """Forget rows with both answers, retain rows; each unless its weight is 0."""
        draws = super().draws()
        if "forget" in draws:
            own, kind = draws["forget"], WANTED[self.algorithm]
            if self.weights.lost:
                draws["forget"] = replace(own, reference="costs", forgets=True)
                draws["wanted"] = replace(own, reference="costs", answers=kind, forgets=False)
            else:
                draws["forget"] = replace(own, answers=kind, forgets=False)
        return draws

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        if "wanted" not in streams:
            return super().loss(streams, fixed)
        lost = rise(streams["forget"]) - rise(streams["wanted"])
        terms = {"forget": self.weights.forget * preference(lost, self.beta)}
        return terms | super().loss({n: s for n, s in streams.items() if n == "retain"}, fixed)

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f of the wanted answers alone."""
        return mean(rows.token_nll())


def rise(rows: Stream) -> Tensor:
    """How much more each row's answer costs than it cost the subject, nats, [rows]."""
    return rows.row_sums(rows.token_nll() - rows.reference_costs())


def preference(h: Tensor, beta: float) -> Tensor:
    """L_f from h [rows], in nats."""
    from torch.nn.functional import softplus

    return softplus(-beta * h).mean() * (2 / beta)
