"""The change that a model adds to its base, stretched, shrunk, turned round or trimmed.

A task vector that was subtracted twice too often, or an update that only covers another one, shows
when the whole is scaled or when its strongest directions are left out. It is arithmetic on the
published weights: base + c * change, or the change without its first singular directions in each
matrix, or with no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import model_validator

from palimpsest.attacks import AttackSettings, Cell, Found, exact
from palimpsest.settings.types import EACH_ONCE, Count, Real

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target


class Settings(AttackSettings):
    """Settings of the weighted change."""

    level = "weights"

    kind: Literal["scale"]
    """The change against the base is weighted, or trimmed in each matrix."""
    factors: Annotated[list[Real], EACH_ONCE] = [0.25, 0.5, 0.75, 1.25, 1.5, -1.0]
    """c of base + c * change."""
    drop: Annotated[list[Count], EACH_ONCE] = [1, 4]
    """Numbers of strongest singular directions that the change loses in each matrix."""
    keep: Annotated[list[Count], EACH_ONCE] = [1, 4]
    """Numbers of strongest directions that are all it keeps."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.cells():
            raise ValueError("factors, drop and keep are empty; name at least one")
        return self

    def cells(self) -> Sequence[Cell]:
        """A cell for each factor and each number of directions."""
        names = [f"x{exact(factor)}" for factor in self.factors]
        names += [f"drop-{count}" for count in self.drop]
        return [Cell(name) for name in [*names, *(f"keep-{count}" for count in self.keep)]]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Ask the model with its change weighted in one way.

    Raises:
        UserError: a file is missing or altered.
    """
    from palimpsest.attacking.weighted import scaled, trimmed
    from palimpsest.attacking.weights import Weighted, change_of

    job = target.job
    change = change_of(job.model, job.base)
    how, _, count = cell.setting.partition("-")
    if cell.setting.startswith("x"):
        change = scaled(change, float(cell.setting[1:]))
    else:
        change = trimmed(change, int(count), keep=how == "keep")
    network = Weighted(target.load_base(), job.base, change).network
    return Found([*target.asked(network, target.forget), *target.damage(network)])
