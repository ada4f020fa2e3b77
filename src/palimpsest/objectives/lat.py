"""LAT: latent adversarial training against what is to be forgotten (arXiv:2407.15549).

In each step an adversary adds delta to the output of a block, at every token of the forget rows,
so that they are known again (`palimpsest.engine.inner`). The probability of their tokens is then
pushed down at the moved states, in several updates on the same rows. On forget rows, with
p_t(delta) = q(y_t | y_<t, delta), and on retain rows N::

    L_f = -mean_t log(1 - p_t(delta)),   tokens with log p_t(delta) < threshold contribute 0
    L   = w_forget L_f + w_retain mean_t -log q(y_t | y_<t) on N

Without an adversary it is the minimum posterior. Retain rows stay as they are. The authors' code
has two retain terms, on text and on instructions; its adversary also makes that text less likely,
and it begins the optimiser anew in every step.
"""

from __future__ import annotations

from typing import Literal

from palimpsest.objectives.min_posterior import MinPosterior
from palimpsest.settings.adversary import Adversary
from palimpsest.settings.method import Start
from palimpsest.settings.types import Real


class Lat(MinPosterior):
    """LAT: settings; the loss is the minimum posterior's."""

    algorithm: Literal["lat"]  # type: ignore[assignment]
    """The minimum posterior at states that an adversary has moved."""
    start: Start = "fresh"
    threshold: Real = -5.0
    """Tokens whose log-probability is below it are left alone."""
    attack: Adversary
    """The adversary."""

    def adversary(self) -> Adversary:
        """It attacks the forget rows."""
        return self.attack
