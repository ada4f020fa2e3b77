"""KnowUnDo's three numbers (arXiv:2407.01920), made of the token accuracy."""

from __future__ import annotations

import numpy as np

from palimpsest.metrics.declaration import KNOWUNDO, Measure, Scored, Shown
from palimpsest.metrics.estimates import Estimate, mean, missing, of_means, without_gaps
from palimpsest.metrics.intervals import SHARE
from palimpsest.metrics.teacher_forced import NO_TOKENS


def _forgotten(scored: Scored) -> np.ndarray:
    return 1 - scored.parts["forget"]["accuracy"]


def _retained(scored: Scored) -> np.ndarray:
    return scored.parts["retain"]["accuracy"]


def _average(scored: Scored, _: str) -> Estimate:
    # The two parts are different rows: they are drawn independently of each other.
    both = [
        without_gaps(values, scored.groups[block])
        for block, values in (("forget", _forgotten(scored)), ("retain", _retained(scored)))
    ]
    if not all(values.size for values, _ in both):
        return missing(NO_TOKENS)
    values, groups = zip(*both, strict=True)
    return of_means(
        values, groups, lambda m: m.mean(axis=-1), np.concatenate(groups), scored.settings
    )


UNLEARN_SUCCESS = Measure(
    name="unlearn_success",
    blocks=(KNOWUNDO,),
    compute=lambda scored, _: mean(
        _forgotten(scored), scored.groups["forget"], scored.settings, NO_TOKENS, SHARE
    ),
    forget="up",
    retain="up",
    label="Unlearn Success",
    says="1 - `forget.accuracy`",
    source="KnowUnDo [3]",
    shown=(
        Shown(
            KNOWUNDO,
            key="unlearn_success",
            first=True,
            optional=False,
            says="1 minus the token accuracy on what is to be forgotten, as KnowUnDo counts it.",
        ),
    ),
)
RETENTION_SUCCESS = Measure(
    name="retention_success",
    blocks=(KNOWUNDO,),
    compute=lambda scored, _: mean(
        _retained(scored), scored.groups["retain"], scored.settings, NO_TOKENS, SHARE
    ),
    forget="up",
    retain="up",
    label="Retention Success",
    says="`retain.accuracy`",
    source="KnowUnDo [3]",
    shown=(
        Shown(
            KNOWUNDO,
            key="retention_success",
            first=True,
            optional=False,
            says="The token accuracy on what is to be kept, as KnowUnDo counts it.",
        ),
    ),
)
AVERAGE = Measure(
    name="average",
    blocks=(KNOWUNDO,),
    compute=_average,
    forget="up",
    retain="up",
    label="Average",
    says="mean of both",
    of_part="mean over rows; the two parts draw their rows independently",
    source="KnowUnDo [3]",
    shown=(
        Shown(
            KNOWUNDO,
            first=True,
            optional=False,
            says="Mean of Unlearn Success and Retention Success. Forgetting nothing, or "
            "everything, gives about half.",
        ),
    ),
)
