"""Train judge: the judge `trained`, from labelled answers, with its AUC on other questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.atomic import atomic_folder
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.io.tables import read_table
from palimpsest.judges import Case
from palimpsest.judges.trained import FEATURES, WEIGHTS, Settings, features, probabilities
from palimpsest.metrics.estimates import rounded
from palimpsest.metrics.intervals import auc_with_width, percentiles
from palimpsest.pipeline.stages import TrainJudge
from palimpsest.settings.types import split_ref

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of the penalty; cross-validation within the training part chooses one."""
FOLDS = 4
"""Folds of questions of that cross-validation."""
QUESTIONS = 8
"""Fewest questions of a part: fewer cannot be divided into folds with answers of both kinds."""
RESAMPLES = 1000
"""Draws of questions for the interval of the AUC."""


@dataclass(frozen=True)
class Labelled:
    """Rows of a part that have a label."""

    texts: list[str]
    harmful: np.ndarray
    """[rows], true or false."""
    questions: np.ndarray
    """[rows], a number for each question: its answers stay together."""
    names: set[str]
    """The questions' groups."""


def train_judge(job: TrainJudge) -> dict[str, Any]:
    """Write the classifier's weights, and the manifest with its AUC on the part ``test``.

    Returns:
        The manifest.

    Raises:
        UserError: a part has no labels, those of one kind alone, or too few questions; or the parts
            share a question.
    """
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    settings = Settings(**job.config["settings"])
    train = labelled(job.datasets, settings.train, settings.text)
    test = labelled(job.datasets, settings.test, settings.text)
    if shared := train.names & test.names:
        raise UserError(
            f"judges.trained: {settings.train} and {settings.test} share {len(shared)} questions "
            f"({min(shared)!r:.60}): its AUC would be that of answers that it knows; take two "
            "shares of one data set's 'split'"
        )
    table = features(train.texts)
    used = np.unique(table.indices)  # of the other words nothing is learned
    folds = GroupKFold(FOLDS).split(train.texts, train.harmful, train.questions)
    model = LogisticRegressionCV(
        Cs=list(STRENGTHS),
        l1_ratios=(0,),
        cv=list(folds),
        scoring="roc_auc",
        class_weight="balanced",
        max_iter=1000,
        use_legacy_attributes=False,
    ).fit(table[:, used], train.harmful)
    coefficients = np.zeros(FEATURES)
    coefficients[used] = model.coef_.ravel()
    scores = probabilities(features(test.texts), coefficients, float(model.intercept_[0]))
    with atomic_folder(job.out) as folder:
        weights = {"coefficients": coefficients, "intercept": model.intercept_}
        save_file(weights, folder / WEIGHTS)
        facts: dict[str, Any] = {
            "trained_on": {"part": settings.train, "rows": len(train.texts)},
            "penalty": float(model.C_),
            "test": quality(scores, test, settings.threshold) | {"part": settings.test},
        }
        manifest = write_manifest(folder, [WEIGHTS], **facts)
    found = manifest["test"]
    low, high = found["ci95"] or (float("nan"), float("nan"))
    print(
        f"judge trained on {len(train.texts)} answers of {settings.train}: on {found['n']} answers "
        f"to other questions AUC {found['auc']:.3f} (95 % interval {low:.3f} to {high:.3f}); it "
        f"finds {found['finds']:.0%} of the harmful ones, and {found['false_alarms']:.0%} of the "
        "harmless ones"
    )
    return manifest


def labelled(datasets: Path, ref: str, text: str) -> Labelled:
    """The rows of a part that have a label.

    Raises:
        UserError: none has, all have the same, or they are about too few questions.
    """
    dataset, part = split_ref(ref)
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    rows = [row for row in table.sort_by("id").to_pylist() if row["harmful"] is not None]
    harmful = np.array([row["harmful"] for row in rows], dtype=bool)
    if len(set(harmful.tolist())) < 2:
        raise UserError(
            f"judges.trained: {ref} has {int(harmful.sum())} answers marked harmful and "
            f"{int((~harmful).sum())} marked harmless; both are needed (adapter pku_saferlhf with "
            "select: all, or qa with columns: {harmful: name})"
        )
    groups = [normalised(row["group"]) for row in rows]
    if len(set(groups)) < QUESTIONS:
        raise UserError(
            f"judges.trained: {ref} has {len(set(groups))} questions with labels; a judge needs "
            f"{QUESTIONS} or more to learn from, and as many others to be tried on"
        )
    cases = [Case(row["prompt"], row["response"], [], row["response"]) for row in rows]
    return Labelled(
        [case.filled(text) for case in cases],
        harmful,
        np.unique(groups, return_inverse=True)[1],
        set(groups),
    )


def quality(scores: np.ndarray, rows: Labelled, threshold: float) -> dict[str, Any]:
    """How well `scores` tell the harmful answers; the interval draws questions, not answers."""
    generator = np.random.default_rng(0)
    count = int(rows.questions.max()) + 1
    draws = []
    for _ in range(RESAMPLES):
        times = np.bincount(generator.integers(count, size=count), minlength=count)
        weights = times[rows.questions]
        if weights[rows.harmful].any() and weights[~rows.harmful].any():
            draws.append(auc(scores, rows.harmful, weights))
    sides = len(set(rows.questions[rows.harmful])), len(set(rows.questions[~rows.harmful]))
    interval = auc_with_width(percentiles(np.array(draws), 0.95), sides, 0.95)
    called = scores >= threshold
    return {
        "auc": rounded(auc(scores, rows.harmful, np.ones(len(scores)))),
        "ci95": None if interval is None else [rounded(bound) for bound in interval],
        "n": len(scores),
        "questions": count,
        "harmful": int(rows.harmful.sum()),
        "finds": rounded(float(called[rows.harmful].mean())),
        "false_alarms": rounded(float(called[~rows.harmful].mean())),
    }


def auc(scores: np.ndarray, harmful: np.ndarray, weights: np.ndarray) -> float:
    """Share of pairs of a harmful and a harmless row in which the harmful one scores higher.

    Equal scores are half a win; `weights` says how often each row counts.
    """
    places = np.unique(scores, return_inverse=True)[1]
    won = np.bincount(places, weights * harmful)
    lost = np.bincount(places, weights * ~harmful)
    wins = (won * (lost.cumsum() - lost / 2)).sum()
    return float(wins / (won.sum() * lost.sum()))
