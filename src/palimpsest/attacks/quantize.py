"""Weights rounded to 8 or 4 bits, as models are deployed: a small change is rounded away.

Unlearning with a small learning rate moves a weight by less than a step of the grid, so the rounded
model is the rounded original again (arXiv:2410.16454). Every model is merged in fp32 first and gets
steps of its own. It then runs in the number type of all results: in fp32 a CPU takes four times as
long, and rounding survives bfloat16. Half a unit in the last place of bfloat16 is at most 2^-8 of a
value, so a value of up to 127 steps moves by less than half a step and keeps its code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from palimpsest.attacks import AttackSettings, Cell, Found
from palimpsest.settings.types import EACH_ONCE

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target

GGUF = ("q4_0", "q4_1", "q8_0")
"""Formats of GGUF files that the package ``gguf`` writes."""

NF4, FP4 = "nf4", "fp4"
"""Formats of models that are loaded in 4 bits: of QLoRA (arXiv:2305.14314), and the default of
bitsandbytes, with which arXiv:2410.16454 measured."""

NAMED = (*GGUF, NF4, FP4)
"""Grids with a name of their own."""

BITS = range(2, 17)


@dataclass(frozen=True)
class Rtn:
    """Round to nearest.

    Attributes:
        bits: of a code.
        group: inputs that share a step; None: all of a row.
        symmetric: whether codes are whole multiples of the step on both sides of zero.
    """

    bits: int
    group: int | None = None
    symmetric: bool = True


def grid_of(name: str) -> Rtn | str:
    """What a grid's name means: ``rtn-4-g128``, ``rtn-8``, ``rtn-4-g64-asym``, ``q4_0``, ``nf4``.

    Raises:
        ValueError: it names none.
    """
    found = re.fullmatch(r"rtn-(\d{1,2})(?:-g([1-9]\d{0,5}))?(-asym)?", name)
    if name in NAMED:
        return name
    if not found or int(found[1]) not in BITS:
        raise ValueError(
            f"'{name}' is no grid; write rtn-BITS (BITS from {BITS[0]} to {BITS[-1]}), "
            f"rtn-BITS-gINPUTS, either with -asym, or one of {', '.join(NAMED)}"
        )
    return Rtn(int(found[1]), int(found[2]) if found[2] else None, not found[3])


def _grid(name: str) -> str:
    grid_of(name)
    return name


class Settings(AttackSettings):
    """Settings of rounded weights."""

    level = "weights"
    against_original = True

    kind: Literal["quantize"]
    """Weights of the linear layers are rounded to a few bits; the head and embeddings are not."""
    grids: Annotated[
        list[Annotated[str, AfterValidator(_grid)]], Field(min_length=1), EACH_ONCE
    ] = ["rtn-8", "rtn-4-g128", "q4_0"]
    """Grids: ``rtn-4-g128`` rounds to the nearest of 2^4 values of each group of 128 inputs,
    ``rtn-8`` of 2^8 of each row, with ``-asym`` not symmetric around zero; q4_0, q4_1, q8_0: as in
    GGUF files; nf4, fp4: as models are loaded in 4 bits."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each grid."""
        return [Cell(grid) for grid in self.grids]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Round, ask again, and count what of the change against `original` is left.

    Raises:
        UserError: no layer was rounded, or the base's weights are quantised already.
    """
    from palimpsest.attacking.merging import round_weights
    from palimpsest.attacking.rounding import rounding
    from palimpsest.attacking.weights import change_of

    job = target.job
    change, original = (change_of(folder, job.base) for folder in (job.model, target.original))
    network = target.load_base()
    facts = round_weights(network, change, original, rounding(cell.setting), cell.setting)
    outcomes = [*target.asked(network, target.forget), *target.damage(network)]
    return Found(outcomes, {cell.setting: facts})
