"""Settings that every method has; those of one algorithm live with its objective."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from palimpsest.settings.training import Training
from palimpsest.settings.types import Count, Index, Name, NonNegative, Section


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
    seeds: Annotated[list[Index], Field(min_length=1)] = [0]
    """One run per seed; eval.json has mean and deviation."""
    like: Annotated[Name | None, Field(exclude=True)] = None
    """Another method: this one has its keys (but the title), save those that it gives itself."""

    chain: ClassVar[Literal["acquire", "unlearn"]]
    """Which stages make the model: ``acquire`` (train, then negate) or ``unlearn`` (train)."""


Start = Annotated[
    Literal["fresh", "subject", "weights"],
    Field(
        description="fresh: a new adapter on the frozen subject; subject: the subject's own "
        "adapter; weights: the base's tensors that ``training.tensors`` names."
    ),
]
"""What a method trains."""


class _Started(MethodSettings):
    """A method that says what it trains."""

    start: Start = "fresh"

    @model_validator(mode="after")
    def _tensors(self) -> Self:
        named = self.training.tensors is not None or bool(self.training.parameters)
        if (self.start == "weights") != named:
            raise ValueError(
                "training.tensors (or training.parameters) names what is trained when start is "
                f"'weights', and only then; start is '{self.start}', and "
                f"{'there is one' if named else 'there is none'}"
            )
        return self


class UnlearnSettings(_Started):
    """Common keys of the methods whose trained model is the result."""

    chain: ClassVar[Literal["acquire", "unlearn"]] = "unlearn"


class AcquireSettings(_Started):
    """Common keys of the methods whose task vector is subtracted."""

    start: Annotated[
        Literal["fresh", "weights"],
        Field(
            description="The task vector: fresh, a new adapter on the frozen subject; weights, "
            "differences of the base's tensors that ``training.tensors`` names."
        ),
    ] = "fresh"
    scale: NonNegative = 1.0
    """lambda: how much of the task vector is subtracted; changing it retrains nothing."""

    chain: ClassVar[Literal["acquire", "unlearn"]] = "acquire"
