"""Ablate: take the direction away that unlearning added to the states of what was forgotten.

Some methods send the states of forget prompts elsewhere, all of them the same way. The direction of
a block is, over the prompts of half of the facts,

* ``with_original``: their mean state in the attacked model less that in the model before
  unlearning, which who published the model has;
* ``without_original``: their mean state in the attacked model less that of general prompts, which
  anybody has; where the scenario has none, of prompts to keep.

Each block's output loses its part along its direction, at all blocks or at the one that adds most
to the distance, and the other half of the facts is asked. Nothing is trained (arXiv:2409.18025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, NoRow
from palimpsest.settings.types import EACH_ONCE

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.attacking.target import Target

Variant = Literal["with_original", "without_original"]
Where = Literal["all", "one"]


class Settings(AttackSettings):
    """Settings of the removal of a direction."""

    level = "weights"
    against_original = True
    models = 2

    kind: Literal["ablate"]
    """Answers of a model that has lost a direction."""
    directions: Annotated[list[Variant], EACH_ONCE] = ["with_original", "without_original"]
    """From the model before unlearning to the attacked one; from general prompts (without any: from
    those to keep) to the facts'."""
    at: Annotated[list[Where], EACH_ONCE] = ["all", "one"]
    """Blocks that lose it: all of them; the one that adds most."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each direction, place and fold."""
        return [
            Cell(f"{direction} {at}", fold)
            for direction in self.directions
            for at in self.at
            for fold in (0, 1)
        ]

    def helpful(self) -> Sequence[str]:
        """Prompts to compare with, without the original: the first that the scenario has."""
        return ("general", "retain") if "without_original" in self.directions else ()


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Answers to the measured rows without the direction of the attacker's rows.

    Raises:
        NoRow: the scenario has no prompts to compare with.
    """
    from palimpsest.attacking.directions import directions, steepest, without

    fold = cell.fold
    assert fold is not None
    name, at = cell.setting.split(" ")
    key = f"{name} {fold}"
    against = _against(name, settings, target)
    here, there = target.once(key, lambda: _means(against, fold, target))
    removed = directions(here, there)
    if at == "one":
        block = steepest(here, there)
        removed = {block: removed[block]} if block in removed else {}
    with without(target.network, removed):
        found = list(target.asked(target.network, target.measured(target.forget, cell.fold)))
        if cell.fold == 0:
            # The directions of the two halves hardly differ, and so does the damage.
            found += target.damage(target.network)
    blocks = f"{min(removed)}-{max(removed)}" if removed else "none"
    facts = {"against": against, f"fold {cell.fold}": {"blocks": blocks}}
    return Found(found, {cell.setting: facts})


def _against(direction: str, settings: Settings, target: Target) -> str:
    """What the states are compared with: those of ``original``, or of other rows."""
    if direction == "with_original":
        return "original"
    name = next(filter(target.has, settings.helpful()), None)
    if name is None:
        raise NoRow(
            f"the direction {direction} is that from general prompts, or prompts to keep, and the "
            "scenario has neither; give it `general` or `retain`"
        )
    return name


def _means(against: str, fold: int, target: Target) -> tuple[Tensor, Tensor]:
    """Mean states of the attacker's rows, and what they are compared with, [blocks, width]."""
    from palimpsest.attacking.directions import mean_states
    from palimpsest.model.unlearned import freed

    rows = target.rows(target.attackers(fold))
    here = mean_states(target, target.network, rows, "states")
    if against != "original":
        others = target.rows(target.others(against))
        return here, mean_states(target, target.network, others, against)
    original = target.load(target.original)
    there = mean_states(target, original, rows, "original")
    del original
    freed()
    return here, there
