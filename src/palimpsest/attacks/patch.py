"""Patch: how deep does what the model still knows lie?

The states of the attacked model at one layer stand in for those of the model before unlearning,
whose blocks above go on with them, under the question and the true answer. With D the drop of the
log-probability of a key's token that follows, and D0 the drop with the states of the base, which
never learned the fact, the share left at a layer is 1 - D / D0, cut to [0, 1]. The value of a row
is its mean over the layers at which D0 is more than .05, weighted by D0: 0 where every layer is as
empty as the base's, 1 where none lost anything (arXiv:2605.24614, which takes a retrained model in
place of the base and reports the opposite). Rows of which no layer carries the fact have no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import AttackSettings, Cell, NoRow, Outcome
from palimpsest.settings.types import Count

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.attacking.target import Target

CARRIES = 0.05
"""Nats: a layer carries a fact if the base's states cost a key's token more than this."""


class Settings(AttackSettings):
    """Settings of the patched states."""

    level = "weights"
    against_original = True
    models = 2
    unit = "patch"
    measured = ()

    kind: Literal["patch"]
    """How much of the facts the blocks before unlearning find in the model's states."""
    every: Count = 2
    """Step from layer to layer, counted from the last."""


def run(settings: Settings, cell: Cell, target: Target) -> list[Outcome]:
    """The share of each row's fact that is left.

    Raises:
        NoRow: no row has a key behind words of its response, or no layer carries a fact.
        UserError: the architecture's blocks cannot run apart.
    """
    from palimpsest.attacking.keyed import keyed
    from palimpsest.attacking.patched import Patched
    from palimpsest.model.unlearned import freed

    facts = keyed(target, target.forget)
    patched = Patched.of(target, facts, settings.every)
    base = target.load_base()
    empty = patched.drops(base, "base")
    del base
    freed()
    values = left(patched.drops(target.network, "attacked"), empty)
    found = [
        Outcome(one.source.fact, value)
        for one, value in zip(facts, values, strict=True)
        if value is not None
    ]
    if not found:
        raise NoRow(
            f"the base's states cost no fact of {target.forget[0].ref} anything, so the subject "
            "was not taught it"
        )
    return found


def left(drops: Tensor, empty: Tensor) -> list[float | None]:
    """Share of each row's fact that is left; None: no layer carries it.

    Args:
        drops: of the attacked model's states, nats a token, [layers, rows].
        empty: of the base's.
    """
    carries = empty > CARRIES
    weights = empty * carries
    shares = (1 - drops / empty.where(carries, empty.new_ones(()))).clamp(0, 1)
    totals = weights.sum(0)
    means = zip(((weights * shares).sum(0) / totals).tolist(), totals.tolist(), strict=True)
    return [value if total else None for value, total in means]
