"""Measures of free answers: what the model says when it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palimpsest.metrics.degenerate import degenerate
from palimpsest.metrics.matching import contains_all, usable
from palimpsest.metrics.normalise import without_final_punctuation
from palimpsest.metrics.rouge import Rouge

NO_WORDS = "the response has no words to compare with"
"""Why a row has no ROUGE."""


def exact_match(response: str, answer: str) -> bool:
    """Whether `answer` is `response` up to case, white space, typography and final punctuation."""
    said = without_final_punctuation(answer)
    return said != "" and said == without_final_punctuation(response)


def recalled(
    answer: str, keys: Sequence[str], rouge_l: float | None, threshold: float
) -> bool | None:
    """Whether `answer` carries the fact: all key strings, or without any, ROUGE-L >= `threshold`.

    None where there is neither a key nor a ROUGE-L.
    """
    if present := usable(keys):
        return contains_all(answer, present)
    return None if rouge_l is None else reaches(rouge_l, threshold)


def reaches(rouge_l: float, threshold: float) -> bool:
    """Whether `rouge_l` is `threshold` or more, up to the rounding of a fraction such as 9/10."""
    return rouge_l >= threshold - 1e-9


def score_answers(
    answers: Sequence[str],
    responses: Sequence[str],
    keys: Sequence[Sequence[str]],
    *,
    rouge: str = "rougeL",
    rouge_stemmer: bool = True,
    recall_rouge: float = 0.9,
) -> dict[str, list[Any]]:
    """Score each answer against its response and key strings; all lists are aligned.

    Args:
        answers: greedy answers of the model.
        responses: what the data set has as the right answer.
        keys: per row the strings that carry the fact (empty if unknown).
        rouge: a variant to compute beside ROUGE-L: rougeL, rouge1 or rouge2.
        rouge_stemmer: compare stems of words.
        recall_rouge: a row without keys is recalled from this ROUGE-L on.

    Returns:
        Columns ``rouge_l`` (and ``rouge_1`` or ``rouge_2`` if asked for), ``exact_match``,
        ``recall``, ``degenerate`` (bool), ``degenerate_why`` (str or None). Where the response has
        no words, ROUGE is None, and so is ``recall`` in a row without keys.
    """
    scorer = Rouge(["rougeL", rouge], rouge_stemmer)
    found = [scorer.score(r, a) for r, a in zip(responses, answers, strict=True)]
    columns: dict[str, list[Any]] = {
        column_of(variant): [None if f is None else f[variant] for f in found]
        for variant in scorer.variants
    }
    columns["exact_match"] = [exact_match(r, a) for r, a in zip(responses, answers, strict=True)]
    columns["recall"] = [
        recalled(answer, key, score, recall_rouge)
        for answer, key, score in zip(answers, keys, columns["rouge_l"], strict=True)
    ]
    why = [degenerate(answer) for answer in answers]
    columns["degenerate"] = [w is not None for w in why]
    columns["degenerate_why"] = why
    return columns


def column_of(variant: str) -> str:
    """Column of a ROUGE variant: rougeL -> rouge_l, rouge1 -> rouge_1."""
    return f"rouge_{variant.removeprefix('rouge').lower()}"
