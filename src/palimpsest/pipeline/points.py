"""The points of a search: a trial's settings are a function of space, seed and number alone.

Points are those of a scrambled Sobol sequence (Owen's scrambling from a fixed generator): the first
ones are the same however many there are, so more trials run no earlier one again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from palimpsest.settings.space import Dimension

DIGITS = 6
"""Significant digits of a value, so that its text and its number agree."""

NAME = r"r0-t\d{3}"
"""What a trial is called: its round and its number."""


def name_of(number: int) -> str:
    """Name of a trial by its number."""
    return f"r0-t{number:03d}"


def number_of(trial: str) -> int:
    """Number of a trial by its name."""
    return int(re.fullmatch(r"r0-t(\d{3})", trial)[1])  # type: ignore[index]


def point(space: Mapping[str, Any], seed: int, number: int) -> dict[str, Any]:
    """Settings of a trial by dotted keys; those of trial 0 are the entry's own, so there are none.

    Args:
        space: key -> ``{range: Dimension, whole: bool}``, both as JSON; sorted.
        seed: of the scrambling.
        number: of the trial.
    """
    if number == 0 or not space:
        return {}
    places = _sobol(len(space), seed, number)
    return {
        key: value(Dimension(**one["range"]), place, one["whole"])
        for (key, one), place in zip(space.items(), places, strict=True)
    }


def value(dimension: Dimension, place: float, whole: bool = False) -> Any:
    """The value at a place in [0, 1) of a dimension; a whole number where the setting is one."""
    if dimension.choices is not None:
        return dimension.choices[int(place * len(dimension.choices))]
    low, high = dimension.ends or (0.0, 0.0)
    if dimension.log:
        found = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        found = low + place * (high - low)
    # Rounding must not leave the range.
    if whole:
        return min(max(round(found), math.ceil(low)), math.floor(high))
    return min(max(float(f"{found:.{DIGITS}g}"), low), high)


def _sobol(dimensions: int, seed: int, number: int) -> list[float]:
    """Point `number`, from 1 on, of the sequence: values in [0, 1)."""
    import numpy as np
    from scipy.stats import qmc  # slow to import

    sequence = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if number > 1:
        sequence.fast_forward(number - 1)
    return [float(place) for place in sequence.random(1)[0]]
