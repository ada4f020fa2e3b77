"""Minimum posterior: push down the probability of the true next token (Analysis360; TAR).

With p_t = q(y_t | y_<t) on forget rows and N retain rows (LLM360/Analysis360)::

    L_f = -mean_t log(1 - p_t),   tokens with log p_t < -15 contribute 0
    L   = w_forget L_f + w_retain mean_t -log q(y_t | y_<t) on N

The gradient to the true logit is +p_t / n: bounded, and nothing is left of it once the token is
forgotten, unlike gradient ascent's. Means are over all tokens, also those below the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingSettings, draws, retain_term
from palimpsest.objectives.means import mean
from palimpsest.settings.types import Real

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream

__all__ = ["Settings", "draws", "loss"]


class Settings(KeepingSettings):
    """Settings of minimum posterior."""

    algorithm: Literal["min_posterior"]
    """Push down the probability of the true token."""
    threshold: Real = -15.0
    """Tokens whose log-probability is below it are left alone."""


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """Weighted terms of one step."""
    if "forget" not in streams:
        return retain_term(streams, s)
    values = -streams["forget"].log_one_minus_p(s.threshold)
    return {"forget": s.weights.forget * mean(values), **retain_term(streams, s)}
