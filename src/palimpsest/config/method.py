"""Settings that every method has; those of one algorithm live with its objective."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from palimpsest.config.training import Training
from palimpsest.config.types import Count, Index, Section


class Rows(Section):
    """Rows that one step draws from each stream."""

    forget: Count = 8
    """Rows of what is to be forgotten."""
    retain: Count = 8
    """Rows of what is to be kept."""


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
    training: Training
    """Adapter and optimiser."""
    seeds: Annotated[list[Index], Field(min_length=1)] = [0]
    """One run per seed; eval.json has mean and deviation."""
    models: dict[str, dict[str, Any]] = {}
    """Overrides for single subjects: the same keys, nested the same way."""

    chain: ClassVar[str]
    """Which stages make the model: ``acquire`` (train, then negate)."""
