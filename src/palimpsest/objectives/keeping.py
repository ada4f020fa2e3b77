"""The retain term of Analysis360's methods: cross-entropy, or nearness to the subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start, UnlearnSettings, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class KeepingSettings(UnlearnSettings):
    """Settings of the methods with a forget term of their own and a common retain term."""

    start: Start = "weights"
    weights: Weights = Weights()
    """Weights of the two terms."""
    retain_term: Literal["ce", "kl"] = "ce"
    """ce: cross-entropy on the retain rows; kl: KL(p || q) from the subject on them."""


def draws(s: KeepingSettings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    read = {}
    if s.weights.forget:
        read["forget"] = Draw(s.rows.forget, ("forget",))
    if s.weights.retain:
        read["retain"] = Draw(s.rows.retain, ("retain",), reference=s.retain_term == "kl")
    return read


def retain_term(streams: Mapping[str, Stream], s: KeepingSettings) -> dict[str, Tensor]:
    """The weighted retain term (mean over tokens), or nothing if its weight is 0."""
    if "retain" not in streams:
        return {}
    rows = streams["retain"]
    values = rows.token_nll() if s.retain_term == "ce" else rows.kl("answer")
    return {"retain": s.weights.retain * mean(values)}
