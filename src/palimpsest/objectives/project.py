"""Projection: take what the subject's update does on forget rows out of it, then heal.

The subject is its base and an update s B A of some matrices. Of each matrix, x are the inputs at
all tokens of a row. With forget rows F, each once as the base and once as the subject computes it,
and rows to keep N as the subject does::

    C_F = mean_{rows of F} sum_t x_t x_t',    C_N likewise over N
    R   = C_N + ridge (tr C_F + tr C_N) / d I            d entries of x
    C_F v_i = s_i R v_i,  v_i' R v_j = [i = j]           (generalised eigenvectors)
    A  <-  (1 - taken) A (I - sum_{i: s_i >= above} R v_i v_i')

Every input is x = sum_i (v_i' x) R v_i, and the squares of its i-th coefficient add up to s_i on a
forget row and to at most 1 on a row to keep (in the mean). A reads none any more that is at least
`above` on forget rows: there the model is its base, and no other weight knows what stood there.
Closed-form editing (arXiv:2308.14761) minimises a sum of both errors in place of this, and leaves
1 / (1 + lambda s_i) of each coefficient.

With ``above: null`` the update shrinks by the share `taken` alone; 1 is retraining from the base,
with a fresh adapter and the subject as teacher. Then, as in UNDO (arXiv:2506.06278), rows to keep
heal what is left of the update. p is the subject, never asked about forget rows, q the trained
model::

    L = mean_t KL(p_t || q_t) on the answers of N
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.objectives.base import Unlearning
from palimpsest.objectives.means import mean
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.types import Positive, Real

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Project(Unlearning):
    """Projection: settings, what stays of the update, and the loss that heals it."""

    algorithm: Literal["project"]
    """Take the forget rows' directions out of the subject's update, then heal it on kept rows."""
    start: Annotated[
        Literal["subject"], Field(description="The subject's own adapter, which is projected.")
    ] = "subject"
    above: Positive | None = 0.3
    """Directions go in which forget rows have as many times the square of the inputs that rows to
    keep have; null: none, the update shrinks by `taken` alone."""
    ridge: Positive = 1e-2
    """Share of the inputs' mean square that rows to keep are taken to have in every direction."""
    taken: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Share of the whole update that is taken away; 1: all, the base is trained anew."""
    rest: Literal["keep", "retain"] = "keep"
    """Rows to keep, which also heal. keep: all that the subject was taught (`keep` of the
    scenario); retain: those that other methods read."""

    @model_validator(mode="after")
    def _takes(self) -> Self:
        if self.above is None and not self.taken:
            raise ValueError(
                "nothing is taken away: set above (a number above 0), or taken (the share of the "
                "update, above 0 and at most 1)"
            )
        return self

    def draws(self) -> dict[str, Draw]:
        """The rows that heal; those to forget are read before the first step, and in none."""
        draws = {"retain": Draw(self.rows.retain, (self.rest,), reference="states")}
        if self.above is not None:
            draws["forget"] = Draw(self.rows.forget, ("forget",))
        return draws

    def reads(self) -> Reads:
        """The final states of the rows that heal."""
        return Reads(unread=() if self.above is None else ("forget",))

    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        """Refuses: no step has a forget term."""
        raise ValueError(
            "training.gradients and training.perturb take the forget term's gradient apart, and "
            "project has none: it forgets before the first step; leave them out"
        )

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The one term of a step."""
        return {"retain": mean(streams["retain"].kl("answer"))}

    def left_of(self, a: Tensor, forget: Tensor | None, keep: Tensor | None) -> Tensor:
        """What stays of a matrix A, float64.

        Args:
            a: [rank, d].
            forget: C_F, [d, d], float64; None if no direction is taken.
            keep: C_N, likewise.
        """
        import torch

        left = (1 - self.taken) * a.double()
        if forget is None or keep is None or self.above is None:
            return left
        regular = keep.clone()
        level = (forget.trace() + keep.trace()) / len(keep)
        if not level > 0:
            return left  # no input of these rows reaches it: nothing is known of its directions
        regular.diagonal().add_(self.ridge * level)
        root = torch.linalg.cholesky(regular)
        half = torch.linalg.solve_triangular(root, forget, upper=False)
        within = torch.linalg.solve_triangular(root, half.T, upper=False)
        values, vectors = torch.linalg.eigh((within + within.T) / 2)
        gone = vectors[:, values >= self.above]  # root' v_i
        passed = torch.linalg.solve_triangular(root.T, gone, upper=True)  # v_i
        return left - left @ (root @ gone) @ passed.T
