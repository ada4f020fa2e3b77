"""Names of task vectors: what methods of the chain `acquire` train before they negate it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from palimpsest.settings.types import name_fault

_SEED = re.compile(r"(.+)/seed-(0|[1-9]\d{0,8})")


def method_of(vector: str) -> str:
    """The method that a vector is of."""
    return match[1] if (match := _SEED.fullmatch(vector)) else vector


def run_of(vector: str, seed: str) -> tuple[str, str]:
    """(method, seed) of the run that makes a vector; `seed` is that of the run that reads it."""
    return (match[1], match[2]) if (match := _SEED.fullmatch(vector)) else (vector, seed)


def _checked(value: str) -> str:
    if fault := name_fault(method_of(value)):
        raise ValueError(f"a method is needed, or method/seed-1; {fault}")
    return value


VectorName = Annotated[str, AfterValidator(_checked)]
"""A method of the chain `acquire` (its vector of the run's own seed), or ``method/seed-1``."""
