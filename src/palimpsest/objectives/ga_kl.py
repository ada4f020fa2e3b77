"""Gradient ascent on forget rows, nearness to the subject on others (KnowUnDo's baseline).

A step draws rows of a mixture; with F its forget rows, N its others, l_b a row's mean cost per
answer token, p the subject and q the trained model (arXiv:2407.01920)::

    L = -w_forget mean_{b in F} l_b + w_retain KL(p || q) on N

The others are retain rows (``ga_kl``) or general rows (``ga_kl_ood``). The released code averages
the divergence over padding too and leaves dropout on in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.ga_gd import MixtureWeights, mixture
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class GaKl(Unlearning):
    """Gradient ascent + KL: settings and loss."""

    algorithm: Literal["ga_kl", "ga_kl_ood"]
    """Nearness on retain rows (ga_kl) or on general ones (ga_kl_ood)."""
    weights: MixtureWeights = MixtureWeights()
    """Weights of both kinds of rows."""
    positions: Literal["all", "answer"] = "answer"
    """Tokens of the other rows that the divergence counts."""

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        other = "general" if self.algorithm == "ga_kl_ood" else "retain"
        return {"mixture": replace(mixture(self.rows, other)["mixture"], reference="states")}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step; a step's mixture may lack one kind of rows."""
        terms = {}
        if forget := streams["mixture"].of_sign(-1):
            terms["forget"] = -self.weights.forget * forget.nll().mean()
        if retain := streams["mixture"].of_sign(1):
            terms["retain"] = self.weights.retain * mean(retain.kl(self.positions))
        return terms
