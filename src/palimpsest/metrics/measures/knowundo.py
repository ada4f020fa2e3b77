"""KnowUnDo's three numbers (arXiv:2407.01920), made of the token accuracy."""

from __future__ import annotations

import numpy as np

from palimpsest.metrics.declaration import KNOWUNDO, Measure, Scored, Shown
from palimpsest.metrics.estimates import Estimate, estimated, mean, missing, without_gaps
from palimpsest.metrics.intervals import bootstrap_means, percentiles
from palimpsest.metrics.teacher_forced import NO_TOKENS


def _forgotten(scored: Scored) -> np.ndarray:
    return 1 - scored.parts["forget"]["accuracy"]


def _retained(scored: Scored) -> np.ndarray:
    return scored.parts["retain"]["accuracy"]


def _average(scored: Scored, _: str) -> Estimate:
    # The two parts are different rows: they are drawn independently of each other.
    both = [without_gaps(values) for values in (_forgotten(scored), _retained(scored))]
    if not all(values.size for values in both):
        return missing(NO_TOKENS)
    seeds = (both[0].mean(axis=1) + both[1].mean(axis=1)) / 2
    draws = [
        bootstrap_means(values.mean(axis=0)[:, None], scored.settings["bootstrap"], seed)
        for seed, values in enumerate(both)
    ]
    interval = percentiles((draws[0] + draws[1]) / 2, scored.settings["confidence"])
    return estimated(seeds, both[0].shape[1] + both[1].shape[1], interval)


UNLEARN_SUCCESS = Measure(
    name="unlearn_success",
    blocks=(KNOWUNDO,),
    compute=lambda scored, _: mean(_forgotten(scored), scored.settings, NO_TOKENS),
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
    compute=lambda scored, _: mean(_retained(scored), scored.settings, NO_TOKENS),
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
