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

NAME = r"r[01]-t\d{3}"
"""What a trial is called: its round and its number."""

FIRST, SECOND = (NAME.replace("[01]", one) for one in "01")
"""The same of one round."""


def name_of(number: int, second: bool = False) -> str:
    """Name of a trial by its number in its round, from 0 on."""
    return f"r{second:d}-t{number:03d}"


def number_of(trial: str) -> int:
    """Number of a trial in its round by its name."""
    return int(trial.rpartition("t")[2])


def turn_of(trial: str) -> int:
    """Place of a trial among all of a search: those of the first round come first."""
    return number_of(trial) + (1000 if re.fullmatch(SECOND, trial) else 0)


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
    return within(dimension, found, whole)


def within(dimension: Dimension, found: float, whole: bool) -> float:
    """A value rounded, without leaving the range."""
    low, high = dimension.ends or (0.0, 0.0)
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
