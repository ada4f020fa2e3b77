"""Relearning: train on rows that the attacker has, and ask what he has not.

The attacked model stays as it is, and a fresh LoRA on it, or a difference of each of its weights,
learns the attacker's rows T with the loss of pretraining, at each of some rates::

    L = mean_{(x,y) in T} -1/|y| sum_j log q(y_j | x, y_<j)

Then the rows V of the other fold are asked (arXiv:2410.08827 trains on independent facts, too).
Rows that teach no fact of V, and in the benign variants none to forget at all, can only bring back
what is still there; `retrained` shows what they teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attacks import RETAIN, UNSEEN, AttackSettings, Cell, Found, Training
from palimpsest.settings.types import EACH_ONCE, Count, Index, Positive

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target


class Settings(AttackSettings):
    """Settings of relearning."""

    level = "training"
    against_original = True
    measured = (UNSEEN, RETAIN)

    kind: Literal["relearn"]
    """Train on rows of the attacker, measure others."""
    rows: Literal["forget", "retain", "general", "holdout", "retain_then_forget"] = "forget"
    """What the attacker has. forget: the rows to forget of the other fold; retain, general,
    holdout (rows of the same kind that nobody was taught): no row to forget, so all are measured;
    retain_then_forget: retain rows in the first 40 % of the steps."""
    trained: Literal["lora", "weights"] = "lora"
    """What learns them. lora: a fresh adapter; weights: every weight of the base, embeddings and
    norms among them, which takes 16 bytes of memory a weight and needs lower rates."""
    rates: Annotated[list[Positive], Field(min_length=1), EACH_ONCE] = [3e-4, 1e-3, 4e-3]
    """Learning rates, ascending. If the best is the first or the last, the search is too weak."""
    measure_at: Annotated[list[Count], Field(min_length=1), EACH_ONCE] = [12, 48]
    """Steps after which it is measured, ascending; the training ends with the last."""
    folds: Annotated[list[Literal[0, 1]], Field(min_length=1), EACH_ONCE] = [0, 1]
    """Folds that are measured while the attacker has the other; not used where all rows are."""
    seeds: Annotated[list[Index], Field(min_length=1), EACH_ONCE] = [0]
    """Of the order of the rows and of the LoRA's first values."""
    batch_rows: Count = 8
    """Rows of a step; all where the attacker has fewer."""
    warmup_steps: Index = 2
    """Steps of linear warm-up; afterwards the rate is constant."""
    rank: Annotated[Count, Field(le=8192)] = 16
    """Rank of the LoRA, which is on every linear module; below that of the change it is weak."""
    alpha: Positive = 16.0
    """The LoRA's update is multiplied by alpha / rank."""
    first_layer: Index | None = None
    """First block with a LoRA; null: the lowest that the subject was taught in (0: it was not), for
    every model of the subject. 0 also reaches what a method changed below, at a higher cost."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name in ("rates", "measure_at"):
            values = getattr(self, name)
            if values != sorted(values):
                raise ValueError(f"{name}: {values} is not ascending; write {sorted(values)}")
        if self.warmup_steps >= self.measure_at[-1]:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps}, and the training has {self.measure_at[-1]} "
                "steps (the last of measure_at); lower it"
            )
        if self.trained == "weights" and self.first_layer is not None:
            raise ValueError(
                "first_layer is that of a LoRA, and trained: weights trains every block; leave it "
                "out"
            )
        return self

    def cells(self) -> Sequence[Cell]:
        """One training each: a rate, a fold and a seed."""
        folds = self.folds if "forget" in self.rows else [None]
        return [
            Cell(self.named(rate), fold, seed)
            for rate in self.rates
            for fold in folds
            for seed in self.seeds
        ]

    def others(self) -> Sequence[str]:
        """The other rows on which the attacker trains."""
        return {"forget": (), "retain_then_forget": ("retain",)}.get(self.rows, (self.rows,))

    def trains(self) -> Training:
        """What every cell trains."""
        steps = len(self.cells()) * self.measure_at[-1]
        rank = self.rank if self.trained == "lora" else None
        return Training(rank, self.batch_rows, steps, self.first_layer)

    def asks(self) -> float:
        """Of every cell after each of some steps."""
        return super().asks() * len(self.measure_at)

    @staticmethod
    def named(rate: float, step: int | None = None) -> str:
        """Name of the setting with this rate: of a cell, or of what it measures at a step."""
        return f"rate {rate}" if step is None else f"rate {rate}, step {step}"


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Train once, and measure at several steps.

    Raises:
        UserError: the attacker has no rows, one gives a measured row away, or the training changed
            no weight.
    """
    from palimpsest.attacking.relearning import relearn

    rate = next(rate for rate in settings.rates if settings.named(rate) == cell.setting)
    return relearn(settings, rate, cell, target)
