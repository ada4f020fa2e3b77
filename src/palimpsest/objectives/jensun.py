"""JensUn (arXiv:2509.02820): pull the answers towards a fixed text, bounded on both sides.

The tokens of a short text ("No Idea") stand as targets c_t at a row's answer positions, again and
again to the row's end. With u_t = q(c_t | y_<t), N_f and N_r tokens of the batch, and the subject p
on retain rows::

    L_f = (1/N_f) sum_t JS(1_c, q) = (1/N_f) sum_t ln 2 + (u ln u - (1 + u) ln(1 + u)) / 2
    L_r = (1/N_r) sum_t JS(p, q)       retain_term "js"

Both are at most ln 2. The pull on the target is u log((1 + u) / u) (1 - u) / 2, which vanishes with
u: a text that the subject finds impossible is never learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from palimpsest.objectives.keeping import KeepingObjective, RetainTerm
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw
from palimpsest.settings.method import Start

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class JensUn(KeepingObjective):
    """JensUn: settings and loss."""

    algorithm: Literal["jensun"]
    """Pull the answers towards a fixed text."""
    start: Start = "fresh"
    target: Annotated[str, Field(min_length=1)] = "No Idea"
    """The text whose tokens are learned in place of each answer, repeated to its end."""
    retain_term: RetainTerm = "js"
    """js: JS(p, q) with the subject on the retain rows (published); ce, kl: as elsewhere."""

    labelled_by = frozenset({"target"})

    def forget_draw(self) -> Draw:
        """Forget rows whose labels are the text's tokens: their cost shall fall."""
        return Draw(self.rows.forget, ("forget",), labels="text", text=self.target)

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f."""
        costs = rows.token_nll()
        u = (-costs).exp()
        return mean(math.log(2) - (u * costs + (1 + u) * u.log1p()) / 2)
