"""How well each measure tells a model that knows from one that does not: the self-test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from palimpsest.errors import UserError
from palimpsest.io import markdown
from palimpsest.io.artifacts import ROWS
from palimpsest.io.tables import read_table
from palimpsest.metrics.intervals import auc_with_width, percentiles

MEASURES = {
    "recall_rate": ("recall", 1),
    "rouge_l": ("rouge_l", 1),
    "exact_match": ("exact_match", 1),
    "probability": ("probability", 1),
    "accuracy": ("accuracy", 1),
    "extraction_strength": ("extraction_strength", 1),
    "exact_memorization": ("exact_memorization", 1),
    "truth_ratio": ("truth_ratio", -1),
    "mia_loss": ("mean_logprob", 1),
    "mia_zlib": ("zlib_logprob", 1),
    "mia_min_k": ("min_k", 1),
    "mia_min_k_plus_plus": ("min_k_plus_plus", 1),
    "mia_reference": ("reference_logprob", 1),
}
"""Measure -> its column of rows.parquet, and 1 where a larger value speaks for knowledge, else -1.
Those of membership inference by the score of a row."""

PARTS = ("forget", "forget_unseen")
SCALED = {"recall_rate": 1, "accuracy": 1, "probability": 1, "rouge_l": 1}
"""Measures of tables/sweep.parquet, with the sign of `MEASURES`."""
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Separation:
    """AUC of a measure between two models, over the rows that both answered."""

    value: float
    low: float
    high: float
    rows: int


def separation(knows: pd.DataFrame, not_knows: pd.DataFrame, measure: str) -> Separation | None:
    """Probability that a row under `knows` has the value that speaks more for knowledge.

    A tie counts one half. The interval is a percentile bootstrap over the groups of rows, each
    drawn under both models together; seed 0.

    Args:
        knows: rows of one part, with columns ``id``, ``group`` and the measure's.
        not_knows: the same rows under the other model.
        measure: one of `MEASURES`.

    Returns:
        None if no row has a value under both.
    """
    column, sign = MEASURES[measure]
    if column not in knows or column not in not_knows:
        return None
    both = knows[["seed", "id", "group", column]].merge(
        not_knows[["seed", "id", column]], on=["seed", "id"], suffixes=("", "_other")
    )
    values = both[[column, f"{column}_other"]].astype(float)
    there = values.notna().all(axis=1).to_numpy()
    if not there.any():
        return None
    first, second = sign * values[there].to_numpy().T
    wins = (first[:, None] > second) + 0.5 * (first[:, None] == second)
    codes, groups = pd.factorize(both["group"][there])
    count = len(groups)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = drawn[:, codes].astype(float)
    draws = ((weights @ wins) * weights).sum(axis=1) / weights.sum(axis=1) ** 2
    interval = auc_with_width(percentiles(draws, CONFIDENCE), (count, count), CONFIDENCE)
    value = float(wins.mean())
    low, high = interval or (value, value)
    return Separation(value, low, high, int(there.sum()))


def follows_scale(sweep: pd.DataFrame, measure: str) -> float | None:
    """Spearman's correlation of a measure with minus the adapter's scale, on the forget part.

    1: each step of the scale lowers the signs of knowledge.

    Args:
        sweep: rows of one method, with columns ``part``, ``scale`` and the measure's.
        measure: one of `MEASURES`.
    """
    if measure not in SCALED or sweep.empty:
        return None
    forget = sweep[sweep["part"] == "forget"]
    # Ranks first: pandas' own Spearman loads scipy for the same.
    ranks = (SCALED[measure] * forget[measure]).rank()
    if ranks.nunique() < 2:
        return None
    return -float(ranks.corr(forget["scale"].rank()))


def read_rows(results: Path, model: str) -> pd.DataFrame:
    """rows.parquet of a model.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_table(results / model / ROWS)[0].to_pandas()


def self_test_table(
    knows: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    sweeps: Mapping[str, pd.DataFrame],
    parts: Sequence[str] = PARTS,
) -> str:
    """The table of docs/metrics.md.

    Models that do not know are compared among themselves, too, on the first part: there a measure
    should be near .5.

    Args:
        knows: rows of the model that knows.
        others: name -> rows of a model that does not.
        sweeps: method -> its rows of tables/sweep.parquet.
        parts: parts whose rows are compared.

    Raises:
        UserError: the models have no row in common.
    """
    controls = list(combinations(others, 2))
    head = [
        "measure",
        *(f"{part}, {name}" for part in parts for name in others),
        *(f"control: {first} and {second}" for first, second in controls),
        "rows",
        *(f"scale of {name}" for name in sweeps),
    ]
    lines = []
    for measure in MEASURES:
        found = [
            separation(_part(knows, part), _part(other, part), measure)
            for part in parts
            for other in others.values()
        ]
        if not any(found):
            continue
        found += [
            separation(_part(others[one], parts[0]), _part(others[other], parts[0]), measure)
            for one, other in controls
        ]
        rows = sorted({one.rows for one in found if one})
        scales = (follows_scale(sweep, measure) for sweep in sweeps.values())
        lines.append(
            [
                f"`{measure}`",
                *map(_shown, found),
                " to ".join(map(str, rows if len(rows) < 2 else (rows[0], rows[-1]))),
                *("" if one is None else f"{one:.2f}" for one in scales),
            ]
        )
    if not lines:
        raise UserError("the models have no row in common: take results of one subject")
    return markdown.table(head, lines, numbers=True)


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    return rows[rows["part"] == part]


def _shown(found: Separation | None) -> str:
    if found is None:
        return ""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
