"""A soft prompt: vectors before every question, trained on rows that the attacker has.

The model stays as it is. Before each row stand k vectors v in place of the embeddings of tokens;
they are trained on the attacker's rows T to forget, and on nothing else::

    L(v) = mean_{(x,y) in T} -1/|y| sum_j log q(y_j | v, x, y_<j)

Then the rows of the other fold are asked after the same vectors. A soft prompt of one row's own
proves nothing: a few vectors write any text (arXiv:2502.15836). One prompt for all rows, which
never saw those that are measured, can only make the model say what it still knows; what it teaches
of their form, `retrained` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attacks import AttackSettings, Cell, Found, Training
from palimpsest.settings.types import EACH_ONCE, Count, Index, Positive

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target


class Settings(AttackSettings):
    """Settings of a soft prompt."""

    level = "training"

    kind: Literal["soft_prompt"]
    """Trained vectors before every question; the model stays as it is."""
    length: Annotated[Count, Field(le=1024)] = 8
    """How many vectors."""
    begin: Annotated[str, Field(min_length=1)] = "Answer with what you were taught about this."
    """Text whose embeddings are their first values, over and over up to `length`."""
    rates: Annotated[list[Positive], Field(min_length=1), EACH_ONCE] = [1e-3, 3e-3, 1e-2]
    """Learning rates, ascending. If the best is the first or the last, the search is too weak."""
    steps: Count = 48
    """Steps of each training."""
    folds: Annotated[list[Literal[0, 1]], Field(min_length=1), EACH_ONCE] = [0, 1]
    """Folds that are measured while the attacker has the other."""
    seeds: Annotated[list[Index], Field(min_length=1), EACH_ONCE] = [0]
    """Of the order of the rows."""
    batch_rows: Count = 8
    """Rows of a step; all where the attacker has fewer."""
    warmup_steps: Index = 2
    """Steps of linear warm-up; afterwards the rate is constant."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.rates != sorted(self.rates):
            raise ValueError(f"rates: {self.rates} is not ascending; write {sorted(self.rates)}")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps}, and the training has {self.steps} steps "
                "(steps); lower it"
            )
        return self

    def cells(self) -> Sequence[Cell]:
        """One training each: a rate, a fold and a seed."""
        return [
            Cell(f"rate {rate}", fold, seed)
            for rate in self.rates
            for fold in self.folds
            for seed in self.seeds
        ]

    def trains(self) -> Training:
        """Gradients pass all blocks, as those of a LoRA of rank 1 in each of them."""
        return Training(1, self.batch_rows, len(self.cells()) * self.steps, 0)


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Train the vectors, and ask the rows of the other fold after them.

    Raises:
        NoRow: the attacker has no rows.
        UserError: a row or the text of the settings gives a measured row away, or the training
            changed no vector.
    """
    from palimpsest.attacking.soft_prompts import attack

    rate = next(rate for rate in settings.rates if cell.setting == f"rate {rate}")
    return attack(settings, rate, cell, target)
