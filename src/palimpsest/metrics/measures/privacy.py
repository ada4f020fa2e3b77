"""Membership inference: do the taught rows still look like training data?

Each attack gives every row a score that is higher where the row looks like training data. The
measure is the area under the ROC curve (AUC) of telling the taught rows of ``forget`` from rows of
the same kind that nobody was taught (``holdout``): 0.5 is chance, 1 gives every row away, and below
0.5 the taught rows stand out by being *less* likely, which gives them away, too.
"""

from __future__ import annotations

import zlib

import numpy as np

from palimpsest.metrics.asked import COMPARED, compared
from palimpsest.metrics.declaration import PRIVACY, Column, Measure, Scored, Shown
from palimpsest.metrics.estimates import (
    Estimate,
    Settings,
    distinct,
    estimated,
    missing,
    without_gaps,
)
from palimpsest.metrics.intervals import (
    BOOTSTRAP_SEED,
    Interval,
    auc_with_width,
    by_group,
    percentiles,
)
from palimpsest.metrics.measures import teacher_forced
from palimpsest.metrics.teacher_forced import Reading, Tokens

NO_DEVIATION = 1e-4
"""Smallest deviation: where the model expects one token alone, there is none."""

NO_HOLDOUT = "the scenario names no holdout part (evaluate.holdout)"
"""Why there is no value."""


Rows = tuple[np.ndarray, np.ndarray]
"""Scores [seeds, rows] and the label of each row's group [rows]."""


def auc(members: Rows, others: Rows, settings: Settings) -> Estimate:
    """AUC as an estimate; the interval draws the groups of both sets with replacement.

    Args:
        members: scores of the taught rows, and their groups.
        others: those of rows that nobody was taught.
        settings: config section ``score``.
    """
    if not (members[0].size and others[0].size):
        return missing("a set has no row with this score")
    wins = [_wins(*pair) for pair in zip(members[0], others[0], strict=True)]
    values = np.array([won.mean() for won in wins])
    rows = sum(wins[0].shape)
    groups = distinct(np.concatenate([members[1], others[1]]))
    return estimated(values, rows, _interval(members, others, wins, settings), groups)


def _interval(
    members: Rows, others: Rows, wins: list[np.ndarray], settings: Settings
) -> Interval | None:
    (_, sizes, of_member), (_, other_sizes, of_other) = (
        by_group(scores.T, groups) for scores, groups in (members, others)
    )
    won = np.zeros((len(sizes), len(other_sizes)))
    np.add.at(won, (of_member[:, None], of_other[None, :]), np.mean(wins, axis=0))
    # Of a draw, only the number of times that it has each group matters.
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    draws = settings["bootstrap"]
    counts = [generator.multinomial(n, np.full(n, 1 / n), size=draws) for n in won.shape]
    pairs = (counts[0] @ sizes) * (counts[1] @ other_sizes)
    confidence = settings["confidence"]
    interval = percentiles(
        np.einsum("dm,mo,do->d", counts[0], won, counts[1], optimize=True) / pairs, confidence
    )
    return auc_with_width(interval, (len(sizes), len(other_sizes)), confidence)


def zlib_logprob(logprob_sum: float, response: str) -> float:
    """Log-probability per byte of the compressed response (Carlini et al. 2021)."""
    return logprob_sum / len(zlib.compress(response.encode()))


def _wins(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    difference = members[:, None] - others[None, :]
    return (difference > 0) + 0.5 * (difference == 0)


def min_k_plus_plus(tokens: Tokens, share: float) -> np.ndarray:
    """Min-K%++: Min-K% of log-probabilities in standard deviations from what the model expects."""
    standard = (tokens.logprob - tokens.expected) / np.maximum(tokens.deviation, NO_DEVIATION)
    return tokens.mean_of_lowest(standard, share)


def _zlib(reading: Reading) -> list[float]:
    sums = reading.tokens.total(reading.tokens.logprob)
    return [zlib_logprob(s, text) for s, text in zip(sums, reading.responses, strict=True)]


def _gain(reading: Reading) -> np.ndarray | None:
    if reading.base is None:
        return None
    return reading.tokens.mean_logprob - reading.base.mean_logprob


def attack(
    name: str,
    column: Column,
    says: str,
    source: str,
    shown: tuple[Shown, ...] = (),
    label: str = "",
) -> Measure:
    """A measure of membership inference: the AUC of a number that each row has."""

    def compute(scored: Scored, _: str) -> Estimate:
        if "holdout" not in scored.parts:
            return missing(NO_HOLDOUT)
        taught, new = (
            without_gaps(scored.parts[block][column.name], scored.groups[block])
            for block in compared(scored.parts)
        )
        return auc(taught, new, scored.settings)

    return Measure(
        name=name,
        blocks=(PRIVACY,),
        column=column,
        compute=compute,
        forget="towards 0.5",
        label=label,
        says=says,
        of_part="AUC of `members`, else of `forget`, against the holdout",
        source=source,
        shown=shown,
    )


MIA_LOSS = attack(
    "mia_loss",
    teacher_forced.MEAN_LOGPROB,
    "mean log p(t)",
    "Yeom et al. [9]",
    label="By loss",
    shown=(
        Shown(
            PRIVACY,
            key="mia_loss",
            first=True,
            says="How well their likelihood alone separates the taught rows from rows that nobody "
            "was taught (AUC): 50% is chance. Far from it, the training is still to be seen.",
        ),
    ),
)
MIA_ZLIB = attack(
    "mia_zlib",
    Column("zlib_logprob", Reading, _zlib, blocks=COMPARED),
    "sum of log p(t) / bytes of the response compressed by zlib",
    "Carlini et al. [5]",
)
MIA_MIN_K = attack(
    "mia_min_k",
    Column(
        "min_k",
        Reading,
        lambda r: r.tokens.mean_of_lowest(r.tokens.logprob, r.settings["min_k"]),
        blocks=COMPARED,
    ),
    "mean of the lowest log p(t): `score.min_k` (0.2) of the row's tokens, rounded down, at least "
    "one",
    "Shi et al. [10]",
    label="Min-k",
    shown=(
        Shown(
            PRIVACY,
            key="mia_min_k",
            says="How well the least likely tokens separate the taught rows from rows that nobody "
            "was taught (AUC): 50% is chance. Below, the rows stand out by being unlikely.",
        ),
    ),
)
MIA_MIN_K_PLUS_PLUS = attack(
    "mia_min_k_plus_plus",
    Column(
        "min_k_plus_plus",
        Reading,
        lambda r: min_k_plus_plus(r.tokens, r.settings["min_k"]),
        blocks=COMPARED,
    ),
    "the same of (log p(t) - m(t)) / s(t), with m and s the mean and standard deviation of log p "
    "under the model's own distribution at t",
    "Zhang et al. [11]",
)
MIA_REFERENCE = attack(
    "mia_reference",
    Column("reference_logprob", Reading, _gain, blocks=COMPARED),
    "mean log p(t) minus that of the base model, which was taught nothing",
    "Carlini et al. [5]",
    label="Reference",
    shown=(
        Shown(
            PRIVACY,
            key="mia_reference",
            says="The same by the gain in likelihood over the base model: 50% is chance.",
        ),
    ),
)
