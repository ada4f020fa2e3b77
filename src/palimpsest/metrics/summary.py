"""A few values per part, without intervals: what a sweep over settings compares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.metrics.teacher_forced import STALE, TeacherForced, some, teacher_forced
from palimpsest.metrics.text import score_answers

if TYPE_CHECKING:
    import pandas as pd


def summarize(
    likelihood: pd.DataFrame, answers: pd.DataFrame, truth: pd.DataFrame, **settings: Any
) -> dict[str, dict[str, Any]]:
    """Means of each part, by the formulas of eval.json.

    Args:
        likelihood: columns `palimpsest.io.schemas.LIKELIHOOD`, of own responses alone.
        answers: columns `palimpsest.io.schemas.ANSWERS`; in a part that has answers, the rows
            that were answered are the ones that count.
        truth: part, id, response, key of at least the answered rows.
        settings: of `palimpsest.metrics.text.score_answers`.

    Returns:
        part -> ``n``, ``recall_rate``, ``accuracy``, ``probability``, ``perplexity``, ``rouge_l``,
        ``degenerate_rate``, None where no row has one or it is no finite number; parts without
        answers come last and have ``n``, ``accuracy`` and ``perplexity``, both over all tokens.

    Raises:
        UserError: the tables do not have the same rows, or a log-probability is no number.
    """
    tokens = {str(part): lines for part, lines in likelihood.groupby("part", sort=False)}
    answered = {str(part): lines.sort_values("id") for part, lines in answers.groupby("part")}
    summary = {
        part: _answered(part, tokens.get(part, likelihood[:0]), lines, truth, settings)
        for part, lines in answered.items()
    }
    return summary | {
        part: _unanswered(part, lines) for part, lines in tokens.items() if part not in answered
    }


def _answered(
    part: str,
    likelihood: pd.DataFrame,
    answers: pd.DataFrame,
    truth: pd.DataFrame,
    settings: dict[str, Any],
) -> dict[str, Any]:
    ids = answers["id"].tolist()
    right = truth[truth["part"] == part].set_index("id")
    if unknown := sorted(set(ids) - set(right.index)):
        raise UserError(f"part {part}: row {some(unknown)} is not in the data set; {STALE}")
    right = right.loc[ids]
    forced = _forced(part, likelihood, ids)
    scores = score_answers(
        answers["answer"].tolist(),
        right["response"].tolist(),
        [list(key) for key in right["key"]],
        **settings,
    )
    return {
        "n": len(ids),
        "recall_rate": _mean(scores["recall"]),
        "accuracy": _mean(forced.accuracy.tolist()),
        "probability": _mean(forced.probability.tolist()),
        "perplexity": _perplexity(forced),
        "rouge_l": _mean(scores["rouge_l"]),
        "degenerate_rate": _mean(scores["degenerate"]),
    }


def _unanswered(part: str, likelihood: pd.DataFrame) -> dict[str, Any]:
    forced = _forced(part, likelihood, likelihood["id"].unique().tolist())
    hits = float(np.nansum(forced.accuracy * forced.tokens))
    tokens = int(forced.tokens.sum())
    return {
        "n": int((forced.tokens > 0).sum()),
        "accuracy": hits / tokens if tokens else None,
        "perplexity": _perplexity(forced),
    }


def _forced(part: str, likelihood: pd.DataFrame, ids: list[str]) -> TeacherForced:
    table = pa.Table.from_pandas(likelihood, preserve_index=False)
    return teacher_forced(table, ids, f"likelihood of part {part}")


def _perplexity(forced: TeacherForced) -> float | None:
    """exp(-mean log-probability of all tokens)."""
    tokens = int(forced.tokens.sum())
    surprise = -float(forced.logprob_sum.sum()) / tokens if tokens else math.nan
    return math.exp(surprise) if surprise < 700 else None


def _mean(values: list[Any]) -> float | None:
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    return math.fsum(known) / len(known) if known else None
