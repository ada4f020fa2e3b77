"""Against other models: `original`, and one that never learned what is forgotten."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.metrics.asked import compared
from palimpsest.metrics.declaration import Comparison, Shown
from palimpsest.metrics.estimates import (
    Estimate,
    Settings,
    estimated,
    mean,
    missing,
    rounded,
)
from palimpsest.metrics.frames import by_seed, groups_of
from palimpsest.metrics.intervals import SHARE
from palimpsest.metrics.measures.privacy import NO_HOLDOUT, auc

if TYPE_CHECKING:
    import pandas as pd

NO_RETRAINED = "not compared with 'retrained' (models.<model>.retrained)"
"""Why there is no gold standard."""
SMALLEST = 5e-324
"""Smallest positive floating-point number."""
SOUND = (0.3, 0.7)
"""AUC of min-k that a model without the knowledge can have. Beyond, PrivLeak has no scale: of a
model that was taught the rows, it goes into the thousands."""
ATTACK = "min_k"
"""Column of rows.parquet that PrivLeak is computed from."""


def similarity(
    method: pd.DataFrame, original: pd.DataFrame, settings: Settings
) -> dict[str, Estimate]:
    """Block -> ROUGE-L of the method's answers against those of `original`."""
    from palimpsest.metrics.rouge import Rouge  # imports nltk, which is slow

    scorer = Rouge(["rougeL"], settings["rouge_stemmer"])
    prior = original.dropna(subset=["answer"]).groupby(["part", "id"])["answer"].first()
    lines = method.dropna(subset=["answer"])
    lines = lines[[pair in prior.index for pair in zip(lines["part"], lines["id"], strict=True)]]
    scores = [
        scorer.score(prior[part, name], answer)
        for part, name, answer in zip(lines["part"], lines["id"], lines["answer"], strict=True)
    ]
    lines = lines.assign(value=[math.nan if s is None else s["rougeL"] for s in scores])
    return {
        str(block): mean(
            values.to_numpy(),
            groups_of(lines, block, values.columns),
            settings,
            "no answer before unlearning has a word",
            SHARE,
        )
        for block, rows in lines.groupby("part", sort=False)
        for values in [rows.pivot_table(index="seed", columns="id", values="value")]
    }


def forget_quality(method: pd.DataFrame, retrained: pd.DataFrame | None) -> dict[str, Any]:
    """Two-sample Kolmogorov-Smirnov test of the truth ratios on ``forget`` (TOFU, 2401.06121).

    Tests whether the method's rows differ from those of a model that never learned them. With
    several seeds each row counts with its mean.

    Returns:
        ``ks`` in [0, 1] (0: the same distribution), ``log10_p`` and ``p`` of its exact p-value,
        ``at_floor`` where the p-value is only known to be that small, ``n`` rows of each side,
        ``reason`` where they are null.
    """
    from scipy import stats  # slow to import

    null = {"ks": None, "p": None, "log10_p": None, "at_floor": None, "n": None}
    if retrained is None:
        return {**null, "reason": NO_RETRAINED}
    sides = [_row_means(frame, "truth_ratio") for frame in (method, retrained)]
    if not all(side.size for side in sides):
        return {**null, "reason": "no row of forget has a truth ratio"}
    test = stats.ks_2samp(*sides, method="exact")
    # The smallest p-values are below what a floating-point number can hold: what stands is a bound.
    at_floor = float(test.pvalue) <= SMALLEST
    p = max(float(test.pvalue), SMALLEST)
    return {
        "ks": rounded(float(test.statistic)),
        "p": rounded(p),
        "log10_p": rounded(math.log10(p)),
        "at_floor": at_floor,
        "n": [len(side) for side in sides],
        "reason": None,
    }


def privleak(method: pd.DataFrame, retrained: pd.DataFrame | None, settings: Settings) -> Estimate:
    """100 ((1 - AUC) - (1 - AUC of retrained)) / (1 - AUC of retrained) (MUSE, 2407.06460).

    AUC of min-k, taught rows against the holdout. Near 0 is good; below 0 too little was
    forgotten, above 0 the taught rows stand out by being unlikely. ``reference_auc`` in `settings`
    is a published AUC of the other model, in MUSE's direction.
    """
    constant = settings.get("reference_auc")
    if retrained is None and constant is None:
        return missing(NO_RETRAINED)
    aucs = []
    frames = [method] if retrained is None or constant is not None else [method, retrained]
    for frame in frames:
        blocks = compared(set(frame["part"]))
        taught, new = (by_seed(frame, block, ATTACK) for block in blocks)
        if taught is None or new is None:
            return missing(NO_HOLDOUT)
        members, others = (
            (values.to_numpy(), groups_of(frame, block, values.columns))
            for block, values in zip(blocks, (taught, new), strict=True)
        )
        aucs.append(auc(members, others, settings))
    ours = aucs[0]
    unseen = constant if constant is not None else 1 - aucs[1]["value"]
    if why := unsound(unseen):
        return missing(why)
    seeds = np.array(ours.get("per_seed") or [ours["value"]])
    return estimated((1 - seeds - unseen) / unseen * 100, ours["n"], None)


def unsound(unseen: float) -> str | None:
    """Why a reference cannot be one, or None.

    Args:
        unseen: 1 - its AUC of min-k, the direction of MUSE.
    """
    if SOUND[0] <= unseen <= SOUND[1]:
        return None
    return (
        f"min-k tells the forget rows of 'retrained' from the holdout with an AUC of "
        f"{1 - unseen:.4g}, and a model that never learned them is within {SOUND[0]:g} to "
        f"{SOUND[1]:g}: it was taught these rows (another split), or the holdout is of another kind"
    )


def _row_means(frame: pd.DataFrame, column: str) -> np.ndarray:
    values = by_seed(frame, "forget", column)
    return np.empty(0) if values is None else values.mean(axis=0).to_numpy()


SIMILARITY = Comparison(
    name="similarity",
    compute=lambda method, original, _, settings: similarity(method, original, settings),
    retain="up",
    label="Same answers, to keep",
    says="per block ROUGE-L of the method's answers against those of `original`",
    shown=(
        Shown(
            "retain",
            key="similarity",
            says="ROUGE-L of the answers to keep against those before unlearning: 100% is word for "
            "word.",
        ),
    ),
)
FORGET_QUALITY = Comparison(
    name="forget_quality",
    compute=lambda method, _, retrained, __: forget_quality(method, retrained),
    value="ks",
    form="number",
    forget="down",
    label="Distance to retrained",
    says="two-sample Kolmogorov-Smirnov test of R on `forget`, method against `retrained`: `ks` "
    "(0: the same distribution), `p` and `log10_p` of the exact test (`at_floor`: p is this or "
    "smaller), `n` rows of either side: 12 against 12 miss a shift by one deviation in half of the "
    "draws. Compare `ks`: with a few hundred rows `log10_p` soon means no more than "
    '"completely separated"',
    source="TOFU [7]",
    shown=(
        Shown(
            "",
            key="forget_quality",
            group="Membership",
            says="Kolmogorov-Smirnov statistic of the truth ratios against a model that never "
            "learned the rows (TOFU's forget quality is its p-value): 0 is the same distribution.",
        ),
    ),
)
PRIVLEAK = Comparison(
    name="privleak",
    compute=lambda method, _, retrained, settings: privleak(method, retrained, settings),
    form="signed",
    forget="towards 0",
    label="PrivLeak",
    says="100 ((1 - AUC) - (1 - AUC of `retrained`)) / (1 - AUC of `retrained`), AUC of "
    "`mia_min_k`. 0 is the aim; below 0 too little was forgotten, above 0 the rows stand out by "
    "being unlikely",
    source="MUSE [15]",
    shown=(
        Shown(
            "",
            key="privleak",
            group="Membership",
            says="Min-k against that of a model that never learned the rows: 0 is the aim, below "
            "it too little was forgotten, above it the rows stand out.",
        ),
    ),
)
