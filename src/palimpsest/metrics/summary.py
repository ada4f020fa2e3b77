"""A few values per part, without intervals: what a sweep over settings compares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.metrics.answers import Answers, rouge_of
from palimpsest.metrics.measures import answers
from palimpsest.metrics.measures import teacher_forced as forced
from palimpsest.metrics.teacher_forced import STALE, Reading, some, teacher_forced

if TYPE_CHECKING:
    import pandas as pd

USUAL = {"rouge": "rougeL", "rouge_stemmer": True, "recall_rouge": 0.9}
"""Settings of the section ``score`` that a sweep uses."""
SWEPT = {
    measure.name: measure.column
    for measure in (
        answers.RECALL,
        forced.ACCURACY,
        forced.PROBABILITY,
        answers.ROUGE_L,
        answers.DEGENERATE,
    )
    if measure.column is not None
}
"""Measure -> the column whose mean a sweep has."""


def summarize(
    likelihood: pd.DataFrame, generations: pd.DataFrame, truth: pd.DataFrame, **settings: Any
) -> dict[str, dict[str, float | int | None]]:
    """Means of each part, by the formulas of eval.json.

    Args:
        likelihood: lines of ``likelihood.parquet``.
        generations: lines of ``generations.parquet``; its rows are the ones that count.
        truth: part, id, response, key of at least those rows.
        settings: instead of those in `USUAL`.

    Returns:
        part -> ``n``, ``recall_rate``, ``accuracy``, ``probability``, ``perplexity``, ``rouge_l``,
        ``degenerate_rate``; None where no row has one, or it is no finite number.

    Raises:
        UserError: the tables do not have the same rows, or a log-probability is no number.
    """
    return {
        str(part): _summary(
            str(part),
            likelihood[likelihood["part"] == part],
            lines.sort_values("id"),
            truth[truth["part"] == part],
            USUAL | settings,
        )
        for part, lines in generations.groupby("part")
    }


def _summary(
    part: str,
    likelihood: pd.DataFrame,
    generations: pd.DataFrame,
    truth: pd.DataFrame,
    settings: dict[str, Any],
) -> dict[str, float | int | None]:
    ids = generations["id"].tolist()
    if unknown := sorted(set(ids) - set(truth["id"])):
        raise UserError(f"part {part}: row {some(unknown)} is not in the data set; {STALE}")
    rows = truth.set_index("id").loc[ids]
    table = pa.Table.from_pandas(likelihood, preserve_index=False)
    tokens = teacher_forced(table, ids, f"likelihood of part {part}")
    texts, responses = generations["answer"].tolist(), rows["response"].tolist()
    keys = [list(key) for key in rows["key"]]
    rouge = rouge_of(texts, responses, settings)
    sources = {
        Reading: Reading(tokens, responses, settings),
        Answers: Answers(texts, responses, keys, rouge, settings, {}),
    }
    count = int(tokens.count.sum())
    surprise = -float(tokens.total(tokens.logprob).sum()) / count if count else math.nan
    return {
        "n": len(ids),
        **{name: _mean(column.each(sources[column.of])) for name, column in SWEPT.items()},
        "perplexity": math.exp(surprise) if surprise < 700 else None,
    }


def _mean(values: Iterable[Any] | None) -> float | None:
    numbers = () if values is None else values
    known = [float(v) for v in numbers if v is not None and not math.isnan(v)]
    return math.fsum(known) / len(known) if known else None
