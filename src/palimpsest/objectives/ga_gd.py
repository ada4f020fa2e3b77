"""Gradient ascent on forget rows with descent on others (KnowUnDo's baseline, arXiv:2407.01920).

A step draws rows b of a mixture; f_b = -w_forget for a row that is to be forgotten and +w_retain
for another; l_b is the row's mean cost per answer token::

    L = mean_b f_b l_b

The others are retain rows (``ga_gd``) or general rows (``ga_gd_ood``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.settings.draw import Draw
from palimpsest.settings.method import UnlearnSettings
from palimpsest.settings.types import Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class MixtureWeights(Section):
    """Weights of both kinds of rows. Neither is 0: that is `gradient_ascent` or `finetune`."""

    forget: Positive = 1.0
    """Weight of what is to be forgotten."""
    retain: Positive = 1.0
    """Weight of what is to be kept."""


class Settings(UnlearnSettings):
    """Settings of gradient ascent + descent."""

    algorithm: Literal["ga_gd", "ga_gd_ood"]
    """Descent on retain rows (ga_gd) or on general ones (ga_gd_ood)."""
    weights: MixtureWeights = MixtureWeights()
    """Weights of both kinds of rows."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    other = "general" if s.algorithm == "ga_gd_ood" else "retain"
    return mixture(s, other)


def mixture(s: UnlearnSettings, other: str) -> dict[str, Draw]:
    """One stream of forget rows (sign -1) and as many others (sign +1), shuffled."""
    rows = s.rows.forget + s.rows.retain
    return {"mixture": Draw(rows, ("forget", other), signs=(-1, 1))}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """Weighted terms of one step."""
    return signed_costs(streams["mixture"], s.weights)


def signed_costs(rows: Stream, weights: MixtureWeights) -> dict[str, Tensor]:
    """mean_b f_b l_b, apart for the two signs (their sum is the mean over the batch)."""
    costs, signs = rows.nll(), rows.signs
    forget = -weights.forget * (costs * (signs < 0)).sum() / len(costs)
    retain = weights.retain * (costs * (signs > 0)).sum() / len(costs)
    return {"forget": forget, "retain": retain}
