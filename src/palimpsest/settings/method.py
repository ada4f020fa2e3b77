"""Settings that every method has; those of one algorithm stand with its objective."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from palimpsest.settings.space import Dimension
from palimpsest.settings.training import Training
from palimpsest.settings.types import EACH_ONCE, Count, Index, Name, NonNegative, Section


class Rows(Section):
    """Rows that one step draws from each stream."""

    forget: Count = 8
    """Rows of what is to be forgotten."""
    retain: Count = 8
    """Rows of what is to be kept."""


class Weights(Section):
    """Weights of the two sides; a term of weight 0 is not computed."""

    forget: NonNegative = 1.0
    """Weight of what is to be forgotten."""
    retain: NonNegative = 1.0
    """Weight of what is to be kept."""


class MethodSettings(Section):
    """Common keys of a method."""

    algorithm: str
    """Which algorithm; several entries may share one."""
    title: str = ""
    """Name shown in the report (the entry's key when empty)."""
    steps: Count
    """Optimiser steps."""
    rows: Rows = Rows()
    """Batch of one step."""
    end_token: bool = True
    """The end-of-text token after a response is a target too."""
    training: Training
    """Adapter and optimiser."""
    seeds: Annotated[list[Index], Field(min_length=1), EACH_ONCE] = [0]
    """One run per seed; eval.json has mean and deviation."""
    like: Annotated[Name | None, Field(exclude=True)] = None
    """Another method: this one has its keys (but the title), save those that it sets itself."""
    tune: Annotated[Name | None, Field(exclude=True)] = None
    """Key of ``tuning``: its settings are searched for by this plan, and those that it has are the
    first trial. With ``like`` it begins where the other one stands, in every subject."""
    space: Annotated[dict[str, Dimension], Field(exclude=True)] = {}
    """With `tune`: setting (``training.optimizer.learning_rate``) -> values that are tried, at most
    four; empty: those of the algorithm around the entry's own."""
    points: Annotated[list[dict[str, Any]], Field(exclude=True)] = []
    """With `tune`: the trials after the first one by themselves, in place of `space`: a list of
    tables, setting -> value."""

    tunes: ClassVar[tuple[str, ...]] = (
        "training.optimizer.learning_rate",
        "steps",
        "weights.retain",
    )
    """Settings that a search varies without a `space`: the first four that are numbers above 0."""


Start = Annotated[
    Literal["fresh", "subject", "weights"],
    Field(
        description="fresh: a new adapter on the frozen subject; subject: the subject's own "
        "adapter; weights: the base's tensors that ``training.tensors`` names."
    ),
]
"""What a method trains."""
