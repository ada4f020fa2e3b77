"""Plans of a search for settings: trials, rows that choose, and the criterion."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.config.criteria import Condition
from palimpsest.settings.types import EACH_ONCE, Count, Index, Positive, Real, Section

MEASURES = {
    "forget": ("recall_rate", "degenerate_rate"),
    "retain": ("recall_rate", "degenerate_rate"),
    "general": ("accuracy",),
}
"""Part -> what a trial measures of its rows. The first two are answered; of `general`, of which
there are few rows, every token counts."""

OF_A_TRIAL = tuple(f"{part}.{name}" for part, names in MEASURES.items() for name in names)
"""The same as a criterion names them."""

RESERVED_SEED = 0
"""Seed of every trial, so that chance is the same for all; no final run has it."""


class ChoosingRows(Section):
    """Rows on which settings are chosen."""

    forget: Annotated[Real, Field(gt=0, lt=1)] = 0.33
    """Share of the facts of ``validate_on.forget``; the result is reported on the others."""
    forget_most: Count = 96
    """Most of these facts, whatever the share."""
    retain: Count = 48
    """Most rows of ``validate_on.retain``."""
    general: Count = 24
    """Most rows of ``validate_on.general``."""


class Criterion(Section):
    """Which point is chosen."""

    keep: Annotated[list[Condition], Field(min_length=1)] = [
        Condition(measure="retain.recall_rate", at_least=0.95, of="original"),
        Condition(measure="general.accuracy", at_least=0.95, of="original"),
        Condition(measure="forget.degenerate_rate", at_most=0.1, above="original"),
    ]
    """Conditions that a point must meet, on the rows that choose."""
    minimise: Literal["forget.recall_rate"] = "forget.recall_rate"
    """What is low in the chosen one of these points; below the value of `retrained` is no merit."""
    bound: Literal["point", "lower"] = "point"
    """point: the conditions are about values; lower: about the worse end of their intervals, for
    which some hundred rows are needed."""

    @model_validator(mode="after")
    def _conditions(self) -> Self:
        for condition in self.keep:
            if condition.measure not in OF_A_TRIAL:
                raise ValueError(
                    f"a trial does not measure '{condition.measure}'; it measures: "
                    f"{', '.join(OF_A_TRIAL)}"
                )
            if condition.within is not None or condition.point:
                raise ValueError(
                    f"{condition.measure}: write at_least or at_most; `bound` says what of the "
                    "interval counts"
                )
        return self


class Plan(Section):
    """A search: how many settings are tried, and which one is chosen."""

    trials: Annotated[Count, Field(le=1000)] = 16
    """Settings that are tried, those of the entry itself among them. More of them run no earlier
    one again."""
    tpe: Annotated[Index, Field(le=1000)] = 0
    """Trials of a second round, which a Tree-structured Parzen Estimator proposes from the first
    (extra: `tpe`). They run again where a trial of the first round or the criterion changes."""
    seed: Index = 0
    """Seed of the scrambled Sobol points, and of the second round."""
    rows: ChoosingRows = ChoosingRows()
    """Rows that choose."""
    criterion: Criterion = Criterion()
    """Which point is chosen; an edit runs no trial again."""
    scales: Annotated[list[Positive], Field(min_length=1), EACH_ONCE] = [0.5, 1.0, 2.0]
    """Each trial is measured with its change of the subject times these (of a task vector: times
    `scale`, too), without a training of its own."""
    final_seeds: Annotated[list[Index], Field(min_length=1), EACH_ONCE] = [101, 102, 103]
    """Seeds of the chosen settings in the result; no trial has one of them."""

    @model_validator(mode="after")
    def _own_point(self) -> Self:
        if 1.0 not in self.scales:
            raise ValueError("scales: 1 is missing, the point that the entry itself is at")
        if RESERVED_SEED in self.final_seeds:
            raise ValueError(
                f"final_seeds: {RESERVED_SEED} is the seed of the trials, which is no fresh one; "
                "name others"
            )
        return self
