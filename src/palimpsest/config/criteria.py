"""Acceptance criteria: what a model must meet; `palimpsest.metrics.verdict` decides."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attacks import Level
from palimpsest.metrics.names import RECOVERABLE
from palimpsest.settings.types import EACH_ONCE, Fraction, Name, NonNegative, Real, Section

Against = Literal["original", "retrained"]


class Condition(Section):
    """One condition: a measure and its limit."""

    measure: str
    """``block.measure`` of eval.json, or ``robust.recoverable``."""
    at_most: Real | None = None
    """The largest value; with `above`, the largest difference; with `of`, the largest ratio."""
    at_least: Real | None = None
    """The smallest value, difference or ratio."""
    within: NonNegative | None = None
    """How far at most from the value of the model that `of` names, on either side."""
    above: Against | None = None
    """The limit is one of the difference to this model's value."""
    of: Against | None = None
    """The limit is one of the ratio to this model's value (with `within`, of the distance)."""
    point: bool = False
    """Decide by the value alone, without its interval; the verdict says so."""

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = [
            name for name in ("at_most", "at_least", "within") if getattr(self, name) is not None
        ]
        if len(limits) != 1:
            found = " and ".join(limits) or "none"
            raise ValueError(f"one of at_most, at_least and within is needed; there is {found}")
        if self.above and self.of:
            raise ValueError("above (a difference) and of (a ratio) exclude each other")
        if self.within is not None and self.of is None:
            raise ValueError("within needs `of: retrained` or `of: original`")
        if self.measure == RECOVERABLE and (self.above or self.of):
            raise ValueError(
                f"{RECOVERABLE} is held against a control already; leave above and of out"
            )
        return self


class Required(Section):
    """Attacks without which nothing is met."""

    require: Annotated[list[Name], EACH_ONCE] = []
    """Names of attacks: another one of the same kind does not stand for it."""
    min_power: Fraction = 0.5
    """An attack that finds a smaller share of what there is in `original` does not count."""


class Criteria(Section):
    """What a model must meet."""

    level: Level = "training"
    """The attacker that the verdict is about: ``robust.recoverable`` is over attacks of his level
    and below. text: a hosted model; training: an open one; files: all that is published."""
    attacks: Required = Required()
    """Attacks that must have been run."""
    conditions: Annotated[list[Condition], Field(min_length=1)]
    """All must hold."""


class Verdict(Section):
    """The criteria that a verdict is about."""

    criteria: Name = "audit"
    """Key of ``criteria``."""
    strict: bool = False
    """Whether the target ``verdicts`` fails unless every method passes, for CI."""
