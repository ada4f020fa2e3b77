"""Minimum posterior: push down the probability of the true next token (Analysis360; TAR).

With p_t = q(y_t | y_<t) on forget rows and N retain rows (LLM360/Analysis360)::

    L_f = -mean_t log(1 - p_t),   tokens with log p_t < -15 contribute 0
    L   = w_forget L_f + w_retain mean_t -log q(y_t | y_<t) on N

The gradient to the true logit is +p_t / n: bounded, and nothing is left of it once the token is
forgotten, unlike gradient ascent's. Means are over all tokens, also those below the threshold, but
not over the first ``skip_tokens`` of each row.

CE-U (arXiv:2503.01224) is this loss by another name. It minimises the cross-entropy of q to
softmax(z without y), which carries no gradient; the slope is q - softmax(z without y), and so is
that of -log(1 - q_y). CE-U has no threshold and skips the first answer token: the entry ``ce_u``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.objectives.means import mean
from palimpsest.settings.types import Index, Real

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class MinPosterior(KeepingObjective):
    """Minimum posterior: settings and loss."""

    algorithm: Literal["min_posterior"]
    """Push down the probability of the true token."""
    threshold: Real = -15.0
    """Tokens whose log-probability is below it are left alone."""
    skip_tokens: Index = 0
    """Tokens at the beginning of each answer that do not count."""

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        return mean(-rows.after(self.skip_tokens).log_one_minus_p(self.threshold))
