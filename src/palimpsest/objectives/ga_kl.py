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

from palimpsest.objectives.ga_gd import MixtureWeights, mixture
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import UnlearnSettings

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Settings(UnlearnSettings):
    """Settings of gradient ascent + KL."""

    algorithm: Literal["ga_kl", "ga_kl_ood"]
    """Nearness on retain rows (ga_kl) or on general ones (ga_kl_ood)."""
    weights: MixtureWeights = MixtureWeights()
    """Weights of both kinds of rows."""
    positions: Literal["all", "answer"] = "answer"
    """Tokens of the other rows that the divergence counts."""


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    other = "general" if s.algorithm == "ga_kl_ood" else "retain"
    return {"mixture": replace(mixture(s, other)["mixture"], reference=True)}


def loss(streams: Mapping[str, Stream], s: Settings) -> dict[str, Tensor]:
    """Weighted terms of one step; a step's mixture may lack one kind of rows."""
    terms = {}
    if forget := streams["mixture"].of_sign(-1):
        terms["forget"] = -s.weights.forget * forget.nll().mean()
    if retain := streams["mixture"].of_sign(1):
        terms["retain"] = s.weights.retain * mean(retain.kl(s.positions))
    return terms
