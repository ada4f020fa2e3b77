"""Free answers of one part and seed, from which their measures are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answers:
    """The answers to some rows of a part; all sequences are aligned."""

    texts: Sequence[str]
    """The model's answers: greedy ones, or sampled ones in a block of those."""
    responses: Sequence[str]
    """The right answers, from the data set."""
    prompts: Sequence[str]
    """The questions."""
    keys: Sequence[Sequence[str]]
    """Strings that carry the fact (empty if unknown)."""
    rouge: Mapping[str, Sequence[float | None]]
    """Variant (rougeL, rouge1, rouge2) -> its number; None where the response has no words."""
    settings: Mapping[str, Any]
    """Config section ``score``."""
    generated: Mapping[str, Sequence[Any]]
    """Columns of generations.parquet besides the text: ``tokens``, ``stopped``,
    ``before_tokens``, ``before_logprob``."""
    garbled: Sequence[str | None] | None = None
    """Why each answer is garbled, None where it is not; None: nothing to compare them with."""
    harmful: Sequence[bool | None] | None = None
    """The judge's verdicts, None for a row without one; None: there is no judge."""


def rouge_of(
    texts: Sequence[str], responses: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """ROUGE-L of each answer and, where ``score.rouge`` is another variant, that variant too."""
    from palimpsest.metrics.rouge import Rouge  # imports nltk, which is slow

    scorer = Rouge(
        ["rougeL", settings["rouge"]],
        settings["rouge_stemmer"],
        settings["rouge_takes"],
        settings["rouge_by"],
    )
    scores = [scorer.score(r, t) for r, t in zip(responses, texts, strict=True)]
    return {
        variant: [None if score is None else score[variant] for score in scores]
        for variant in scorer.variants
    }
