"""MemFlex: ascent and descent on the located region alone (arXiv:2407.01920).

The loss is that of `ga_gd` with in-distribution retain rows and other weights::

    L = mean_b f_b l_b,   f_b = -w_forget (forget) or +w_retain (retain)

Only the tensors of the region are trained. A tensor t of the subject's adapter is in it if its
mean gradients G on perturbed answers (`palimpsest.stages.localize`) differ in direction between
what is forgotten (un) and kept (re), and are large on the former::

    cos(G_un[t], G_re[t]) < mu   and   mean |G_un[t]| > sigma

The released weights are 0.4 and 2.0, which the paper does not mention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.ga_gd import MixtureWeights, mixture, signed_costs
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start
from palimpsest.settings.region import Region

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class MemFlex(Unlearning):
    """MemFlex: settings and loss."""

    algorithm: Literal["memflex"]
    """Ascent and descent on a region of the subject's adapter."""
    start: Start = "subject"
    weights: MixtureWeights = MixtureWeights(forget=0.4, retain=2.0)
    """Weights of both kinds of rows (the released ones)."""
    region: Region | None = Region()
    """Which tensors are trained; null: all of them (an ablation)."""

    @model_validator(mode="after")
    def _region_is_of_the_subject(self) -> Self:
        if self.region is not None and self.start != "subject":
            raise ValueError(
                "region selects tensors of the subject's adapter: start must be 'subject', "
                f"not '{self.start}' (or set region: null)"
            )
        return self

    def localizes(self) -> bool:
        """Unless all tensors are trained."""
        return self.region is not None

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return mixture(self.rows, "retain")

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        return signed_costs(streams["mixture"], self.weights)
