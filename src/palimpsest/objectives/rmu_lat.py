"""RMU-LAT: RMU against an adversary within the model (LAT, arXiv:2407.15549).

In each step an adversary adds delta to the output of a block below RMU's, at every token of the
forget rows, so that they are known again (`palimpsest.engine.inner`). RMU's loss is then taken at
the moved states, in several updates on the same rows::

    L = mean (a_t(delta) - c u)^2 + alpha mean (a_t - a0_t)^2

Retain rows stay as they are.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from palimpsest.objectives.rmu import Rmu
from palimpsest.settings.adversary import Adversary


class RmuLat(Rmu):
    """RMU-LAT: settings; the loss is RMU's."""

    algorithm: Literal["rmu_lat"]  # type: ignore[assignment]
    """RMU at states that an adversary has moved."""
    attack: Adversary
    """The adversary."""

    @model_validator(mode="after")
    def _below(self) -> Self:
        if self.attack.block >= self.layer:
            raise ValueError(
                f"attack.block is {self.attack.block} and layer {self.layer}: the states that are "
                "steered lie above those that are attacked; raise layer, or lower attack.block"
            )
        return self

    def adversary(self) -> Adversary:
        """It attacks the forget rows."""
        return self.attack
