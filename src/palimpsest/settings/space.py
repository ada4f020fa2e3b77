"""What a search may try of a setting."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from palimpsest.settings.types import EACH_ONCE, Positive, Real, Section


class Dimension(Section):
    """The values of one setting that a search may try: one of the three keys."""

    log: tuple[Positive, Positive] | None = None
    """From the first to the second value, in equal ratios."""
    linear: tuple[Real, Real] | None = None
    """From the first to the second value, in equal steps."""
    choices: Annotated[list[Any], Field(min_length=1), EACH_ONCE] | None = None
    """These values."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in ("log", "linear", "choices") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"one of log, linear and choices is needed; there is {found}")
        if (ends := self.ends) and ends[0] > ends[1]:
            raise ValueError(f"the range is empty; write [{ends[1]:g}, {ends[0]:g}]")
        return self

    @property
    def ends(self) -> tuple[float, float] | None:
        """The smallest and the largest value of a range; None of choices."""
        return self.log or self.linear

    def written(self) -> dict[str, Any]:
        """As it stands in a configuration."""
        return self.model_dump(exclude_none=True)
