"""Maximum entropy: make the next-token distribution on forget rows uniform (Analysis360; TAR).

With q_t the prediction of target t, H its Shannon entropy, U the uniform distribution over the
vocabulary, and N retain rows (arXiv:2408.00761; LLM360/Analysis360)::

    towards "entropy":  L_f = -mean_t H(q_t) = mean_t KL(q_t || U) - ln V
    towards "uniform":  L_f = mean_t KL(U || q_t) = mean_t (lse(z_t) - mean_v z_tv) - ln V
    L = w_forget L_f + w_retain mean_t -log q(y_t | y_<t) on N

L_f is in [-ln V, 0] in the first form. Its gradient vanishes where q is one-hot, on the tokens
that are known best; the second form has no such flat spot. Means are over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class MaxEntropy(KeepingObjective):
    """Maximum entropy: settings and loss."""

    algorithm: Literal["max_entropy"]
    """Push predictions on forget rows to the uniform distribution."""
    towards: Literal["entropy", "uniform"] = "entropy"
    """entropy: maximise the entropy (as published); uniform: minimise KL(U || q)."""

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f in the form that ``towards`` names."""
        return mean(-rows.entropy() if self.towards == "entropy" else rows.kl_from_uniform())
