"""Compares a row's right response with wrong answers to the same question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from palimpsest.metrics.asked import CONTRASTED, kind_of
from palimpsest.metrics.declaration import Column, Measure, Scored, Shown
from palimpsest.metrics.estimates import Estimate, mean, missing, rate
from palimpsest.metrics.intervals import SHARE
from palimpsest.metrics.teacher_forced import Reading

NO_WRONG_ANSWERS = "no wrong answers (perturbed) to compare with"
"""Why a block has no truth ratio."""
LARGEST = 690.0
"""Logarithm at which a ratio is cut off: a floating-point number can just hold it."""


def truth_ratio(right: float, wrong: Sequence[float], mean: str) -> float:
    """How likely wrong answers are, compared with the right one.

    Args:
        right: mean log-probability of a token of the right answer.
        wrong: the same of each wrong answer.
        mean: ``arithmetic``: mean of the wrong answers' probabilities (TOFU, arXiv:2401.06121,
            equation 1); ``geometric``: exp of the mean of their logarithms (OpenUnlearning).

    Returns:
        Below 1 where the truth is likelier, 1 where the model makes no difference.
    """
    logs = np.asarray(wrong, dtype=np.float64)
    middle = np.mean(logs) if mean == "geometric" else _log_mean_exp(logs)
    return float(np.exp(np.clip(middle - right, -LARGEST, LARGEST)))


def choice_probability(right: float, wrong: Sequence[float]) -> float:
    """Probability of the right answer among all of them (TOFU's for multiple choice).

    Args:
        right: mean log-probability of a token of the right answer.
        wrong: the same of each wrong answer.
    """
    logs = np.array([right, *wrong], dtype=np.float64)
    weights = np.exp(logs - logs.max())
    return float(weights[0] / weights.sum())


def known(right: float, wrong: Sequence[float]) -> bool:
    """Whether the right answer is likelier, per token, than each wrong one.

    Args:
        right: mean log-probability of a token of the right answer.
        wrong: the same of each wrong answer.
    """
    return right > max(wrong)


def forget_score(ratio: np.ndarray) -> np.ndarray:
    """min(R, 1/R): 1 where truth and falsehood are equally likely (the aim of forgetting)."""
    return np.minimum(ratio, 1 / ratio)


def retain_score(ratio: np.ndarray) -> np.ndarray:
    """max(0, 1 - R): 1 where the truth is far likelier (the aim of retention)."""
    return np.maximum(0.0, 1 - ratio)


def _log_mean_exp(logs: np.ndarray) -> np.floating:
    top = logs.max()
    return top + np.log(np.mean(np.exp(logs - top)))


def _each(
    reading: Reading, formula: Callable[[float, Sequence[float]], float]
) -> list[float | None]:
    """`formula` of each row that has wrong answers, all of them with finite log-probabilities."""
    return [
        formula(float(logprob), wrong) if wrong and np.isfinite([logprob, *wrong]).all() else None
        for logprob, wrong in zip(reading.right, reading.wrong, strict=True)
    ]


def _truth_ratios(reading: Reading) -> list[float | None]:
    kind = reading.settings["truth_ratio"]
    return _each(reading, lambda right, wrong: truth_ratio(right, wrong, kind))


def _truth_ratio(scored: Scored, block: str) -> Estimate:
    if kind_of(block) not in CONTRASTED:
        return missing(f"wrong answers are measured of {', '.join(CONTRASTED)} alone")
    score = forget_score if block.startswith("forget") else retain_score
    ratios = scored.parts[block]["truth_ratio"]
    groups = scored.groups[block]
    return mean(score(ratios), groups, scored.settings, NO_WRONG_ANSWERS, SHARE)


TRUTH_RATIO = Measure(
    name="truth_ratio",
    column=Column(
        "truth_ratio", Reading, _truth_ratios, blocks=CONTRASTED, difference="truth_ratio"
    ),
    compute=_truth_ratio,
    forget="up",
    retain="up",
    label="Truth ratio",
    says="R, by `score.truth_ratio`. `arithmetic`: mean of exp(w(i)) / exp(r); `geometric`: "
    "exp(mean of w(i)) / exp(r)",
    of_part="mean over rows of min(R, 1/R) on `forget` and `forget_unseen`, of max(0, 1 - R) "
    "elsewhere",
    source="TOFU's paper [7] with a paraphrased right answer, see below; OpenUnlearning",
    shown=(
        Shown(
            "forget",
            key="truth_ratio",
            says="How equal true and wrong answers have become in probability: 100% where the "
            "model makes no difference between them.",
        ),
        Shown(
            "retain",
            says="How much likelier the true answer is than the wrong ones: 100% where far "
            "likelier.",
        ),
    ),
)
CHOICE_PROBABILITY = Column(
    "choice_probability",
    Reading,
    lambda r: _each(r, choice_probability),
    blocks=CONTRASTED,
    says="exp(r) / (exp(r) + sum of exp(w(i)))",
    source="TOFU [7]",
)
KNOWN = Measure(
    name="known_rate",
    blocks=CONTRASTED,
    column=Column(
        "known",
        Reading,
        lambda r: _each(r, known),
        pa.bool_(),
        blocks=CONTRASTED,
        difference="known_rate",
    ),
    reduce=rate,
    why=NO_WRONG_ANSWERS,
    always=False,
    forget="down, to the level of `base`",
    retain="up",
    label="Still known",
    says="r > w(i) for each i: the right answer is likelier, per token, than each wrong one; "
    "1 / (1 + m) is chance",
    of_part="share of rows that have wrong answers",
    shown=(
        Shown(
            "forget",
            key="forget_known",
            first=True,
            optional=False,
            says="Share of the facts to forget whose right answer is still likelier than each of "
            "its wrong ones, whatever the model says when it is asked.",
        ),
        Shown(
            "forget_unseen",
            key="forget_unseen_known",
            label="Still known, unseen wording",
            says="The same after the question in other words.",
        ),
        Shown(
            "retain",
            key="retain_known",
            first=True,
            says="Share of the facts to keep whose right answer is likelier than each of its wrong "
            "ones.",
        ),
    ),
)
