"""A few values per part, without intervals: what a sweep over settings compares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.metrics.teacher_forced import STALE, some, teacher_forced
from palimpsest.metrics.text import score_answers

if TYPE_CHECKING:
    import pandas as pd


def summarize(
    likelihood: pd.DataFrame, generations: pd.DataFrame, truth: pd.DataFrame, **settings: Any
) -> dict[str, dict[str, float | int | None]]:
    """Means of each part, by the formulas of eval.json.

    Args:
        likelihood: lines of ``likelihood.parquet``.
        generations: lines of ``generations.parquet``; its rows are the ones that count.
        truth: part, id, response, key of at least those rows.
        settings: of `palimpsest.metrics.text.score_answers`.

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
            said.sort_values("id"),
            truth[truth["part"] == part],
            settings,
        )
        for part, said in generations.groupby("part")
    }


def _summary(
    part: str,
    likelihood: pd.DataFrame,
    said: pd.DataFrame,
    truth: pd.DataFrame,
    settings: dict[str, Any],
) -> dict[str, float | int | None]:
    ids = said["id"].tolist()
    if unknown := sorted(set(ids) - set(truth["id"])):
        raise UserError(f"part {part}: row {some(unknown)} is not in the data set; {STALE}")
    wanted = truth.set_index("id").loc[ids]
    table = pa.Table.from_pandas(likelihood, preserve_index=False)
    forced = teacher_forced(table, ids, f"likelihood of part {part}")
    answers = score_answers(
        said["answer"].tolist(),
        wanted["response"].tolist(),
        [list(key) for key in wanted["key"]],
        **settings,
    )
    tokens = int(forced.tokens.sum())
    surprise = -float(forced.logprob_sum.sum()) / tokens if tokens else math.nan
    return {
        "n": len(ids),
        "recall_rate": _mean(answers["recall"]),
        "accuracy": _mean(forced.accuracy.tolist()),
        "probability": _mean(forced.probability.tolist()),
        "perplexity": math.exp(surprise) if surprise < 700 else None,
        "rouge_l": _mean(answers["rouge_l"]),
        "degenerate_rate": _mean(answers["degenerate"]),
    }


def _mean(values: list[Any]) -> float | None:
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    return math.fsum(known) / len(known) if known else None
