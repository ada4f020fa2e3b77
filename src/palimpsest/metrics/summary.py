"""A few values per part, without intervals, which a sweep over settings compares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.metrics.answers import Answers, rouge_of
from palimpsest.metrics.measures import answers as answer_measures
from palimpsest.metrics.measures import teacher_forced as forced
from palimpsest.metrics.teacher_forced import STALE, Reading, Tokens, first_of, teacher_forced

if TYPE_CHECKING:
    import pandas as pd

USUAL = {
    "rouge": "rougeL",
    "rouge_stemmer": True,
    "rouge_takes": "f",
    "rouge_by": "words",
    "recall_rouge": 0.9,
}
"""Settings of the section ``score`` that a sweep uses."""
SWEPT = {
    measure.name: measure.column
    for measure in (
        answer_measures.RECALL,
        forced.ACCURACY,
        forced.PROBABILITY,
        answer_measures.ROUGE_L,
        answer_measures.DEGENERATE,
    )
    if measure.column is not None
}
"""Measure -> the column whose mean a sweep has."""


def summarize(
    likelihood: pd.DataFrame, answers: pd.DataFrame, truth: pd.DataFrame, **settings: Any
) -> dict[str, dict[str, Any]]:
    """Means of each part, by the formulas of eval.json.

    Args:
        likelihood: columns `palimpsest.io.schemas.LIKELIHOOD`, of the right responses alone.
        answers: columns `palimpsest.io.schemas.ANSWERS`; in a part with answers, only the rows
            with an answer count.
        truth: part, id, prompt, response, key of at least the answered rows.
        settings: replace those in `USUAL`.

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
        part: _answered(part, tokens.get(part, likelihood[:0]), lines, truth, USUAL | settings)
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
        raise UserError(f"part {part}: row {first_of(unknown)} is not in the data set; {STALE}")
    right = right.loc[ids]
    tokens = _tokens(part, likelihood, ids)
    texts, responses = answers["answer"].tolist(), right["response"].tolist()
    prompts, keys = right["prompt"].tolist(), [list(key) for key in right["key"]]
    generated = {"stopped": answers["stopped"].tolist()}
    rouge = rouge_of(texts, responses, settings)
    sources = {
        Reading: Reading(tokens, responses, settings),
        Answers: Answers(texts, responses, prompts, keys, rouge, settings, generated),
    }
    return {
        "n": len(ids),
        **{name: _mean(column.each(sources[column.of])) for name, column in SWEPT.items()},
        "perplexity": _perplexity(tokens),
    }


def _unanswered(part: str, likelihood: pd.DataFrame) -> dict[str, Any]:
    tokens = _tokens(part, likelihood, likelihood["id"].unique().tolist())
    count = int(tokens.count.sum())
    return {
        "n": int((tokens.count > 0).sum()),
        "accuracy": float(tokens.hit.sum()) / count if count else None,
        "perplexity": _perplexity(tokens),
    }


def _tokens(part: str, likelihood: pd.DataFrame, ids: list[str]) -> Tokens:
    table = pa.Table.from_pandas(likelihood, preserve_index=False)
    return teacher_forced(table, ids, f"likelihood of part {part}")


def _perplexity(tokens: Tokens) -> float | None:
    """exp(-mean log-probability of all tokens)."""
    count = int(tokens.count.sum())
    surprise = -float(tokens.total(tokens.logprob).sum()) / count if count else math.nan
    return math.exp(surprise) if surprise < 700 else None


def _mean(values: Iterable[Any] | None) -> float | None:
    numbers = () if values is None else values
    present = [float(v) for v in numbers if v is not None and not math.isnan(v)]
    return math.fsum(present) / len(present) if present else None
