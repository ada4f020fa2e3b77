"""The points of a second round, proposed from what the first one found.

A Tree-structured Parzen Estimator (TPE; Bergstra et al. 2011, as in Optuna: arXiv:1907.10902) gets
the finished trials in their order, and proposes the points of the second round one after another.
So a point is a function of the first round, the seed and its number: there is no journal that
workers share, and more points change no earlier one.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.errors import UserError
from palimpsest.pipeline.points import within
from palimpsest.settings.space import Dimension

WORST = 1e6
"""Stands for a trial that was stopped, in place of infinity."""


def lacking() -> str | None:
    """What a second round lacks here; None: nothing."""
    if importlib.util.find_spec("optuna") is not None:
        return None
    return "optuna, which is not installed: pip install '.[tpe]' in the project's environment"


def proposed(
    space: Mapping[str, Any],
    own: Mapping[str, Any],
    done: Sequence[tuple[Mapping[str, Any], float]],
    seed: int,
    number: int,
) -> dict[str, Any]:
    """Settings of a trial of the second round by dotted keys.

    Args:
        space: key -> ``{range: Dimension, whole: bool}``, both as JSON; sorted.
        own: the entry's own values of these keys, as the space has them.
        done: settings and worth (low is good) of the trials of the first round, in their order; a
            setting that is missing has the entry's own value.
        seed: of the plan.
        number: of the trial in its round, from 0 on.

    Raises:
        UserError: optuna is not installed.
    """
    if not space:
        return {}
    if fault := lacking():
        raise UserError(f"a second round (tuning.<plan>.tpe) needs {fault}")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {key: Dimension(**one["range"]) for key, one in space.items()}
    spread = {key: _distribution(ranges[key], space[key]["whole"]) for key in space}
    # The first round stands in for random trials at the start, and no draw of it is repeated.
    sampler = optuna.samplers.TPESampler(seed=seed + 1, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler)
    for settings, worth in done:
        values = {**own, **settings}
        params = {key: _recorded(ranges[key], values[key]) for key in space}
        finished = optuna.trial.create_trial(
            params=params, distributions=spread, value=min(worth, WORST)
        )
        study.add_trial(finished)
    point = [study.ask(spread) for _ in range(number + 1)][-1]
    return {
        key: _settled(ranges[key], point.params[key], space[key]["whole"]) for key in sorted(space)
    }


def _distribution(dimension: Dimension, whole: bool) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.choices is not None:
        return CategoricalDistribution(range(len(dimension.choices)))
    low, high = dimension.ends or (0.0, 0.0)
    log = dimension.log is not None
    if whole:
        return IntDistribution(math.ceil(low), math.floor(high), log=log)
    return FloatDistribution(low, high, log=log)


def _recorded(dimension: Dimension, value: Any) -> Any:
    """A setting as the estimator has it: choices by their place."""
    return value if dimension.choices is None else dimension.choices.index(value)


def _settled(dimension: Dimension, value: Any, whole: bool) -> Any:
    if dimension.choices is not None:
        return dimension.choices[value]
    return within(dimension, value, whole)
