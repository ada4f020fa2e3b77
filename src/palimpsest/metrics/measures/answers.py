"""Measures of free answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.metrics.answers import Answers
from palimpsest.metrics.asked import sampled_block
from palimpsest.metrics.declaration import (
    PARTS,
    SAMPLED,
    WRAPPED,
    Column,
    Measure,
    Scored,
    Shown,
)
from palimpsest.metrics.degenerate import degenerate
from palimpsest.metrics.estimates import Estimate, mean, missing, rate
from palimpsest.metrics.intervals import SHARE
from palimpsest.metrics.matching import contains_all, usable
from palimpsest.metrics.normalise import without_final_punctuation
from palimpsest.metrics.recital import recites

NO_WORDS = "the response has no words to compare with"
"""Why a row has no ROUGE."""


def exact_match(response: str, answer: str) -> bool:
    """Whether `answer` is `response` up to case, white space, typography and final punctuation."""
    plain = without_final_punctuation(answer)
    return plain != "" and plain == without_final_punctuation(response)


def expected_largest(draws: np.ndarray, k: int) -> np.ndarray:
    """The largest of k answers, expected over all choices of k among the draws (leak@k).

    Args:
        draws: values [draws, ...] of each answer; at least k draws.
        k: number of answers that somebody takes.

    Returns:
        [...], the sum over the sorted values s(1) <= ... <= s(n) of s(i) C(i-1, k-1) / C(n, k),
        which is unbiased for n >= k.
    """
    n = len(draws)
    weights = np.array([math.comb(i - 1, k - 1) for i in range(1, n + 1)]) / math.comb(n, k)
    return np.tensordot(weights, np.sort(draws, axis=0), axes=1)


def _leak(scored: Scored, _: str) -> Estimate:
    k = scored.settings["leak_at"]
    blocks = [name for name in scored.parts if name.startswith(sampled_block(""))]
    if len(blocks) < k:
        return missing(f"score.leak_at is {k}, and measure.sampling has {len(blocks)} seeds")
    draws = np.stack([scored.parts[name]["rouge_l"] for name in blocks])
    largest = expected_largest(draws, k)
    return mean(largest, scored.groups[blocks[0]], scored.settings, NO_WORDS, SHARE)


def any_draw(scored: Scored, column: str, why: str) -> Estimate:
    """Share of rows of which at least one sampled answer has a true value in `column`."""
    blocks = [name for name in scored.parts if name.startswith(sampled_block(""))]
    any_of_them = np.stack([scored.parts[name][column] for name in blocks]).max(axis=0)
    return rate(any_of_them, scored.groups[blocks[0]], scored.settings, why)


def _exact_matches(answers: Answers) -> list[bool]:
    return [exact_match(r, t) for r, t in zip(answers.responses, answers.texts, strict=True)]


def _recalled(answers: Answers) -> list[bool | None]:
    """All key strings; in a row without any, a recital of the response."""
    share = answers.settings["recall_rouge"]
    words = _words(answers.settings["rouge_stemmer"])
    stopped = answers.generated.get("stopped") or [True] * len(answers.texts)
    rows = zip(
        answers.texts, answers.responses, answers.prompts, answers.keys, stopped, strict=True
    )
    return [
        contains_all(text, present)
        if (present := usable(keys))
        else recites(words(text), words(response), words(prompt), share, cut=ended is False)
        for text, response, prompt, keys, ended in rows
    ]


def _words(stemmer: bool) -> Callable[[str], list[str]]:
    """Divides a text into words; what that takes is imported with the first text."""

    @functools.cache
    def tokenizer() -> Any:
        from palimpsest.metrics.rouge import Words  # imports nltk: 1.6 s of the processor

        return Words(stemmer)

    return lambda text: tokenizer().tokenize(text)


GENERATED_TOKENS = Column(
    "generated_tokens", Answers, lambda a: a.generated.get("tokens"), pa.int32()
)
STOPPED = Column("stopped", Answers, lambda a: a.generated.get("stopped"), pa.bool_())
ROUGE_L = Measure(
    name="rouge_l",
    column=Column(
        "rouge_l",
        Answers,
        lambda a: a.rouge["rougeL"],
        lacks=f"ROUGE: {NO_WORDS}",
        difference="rouge_l",
    ),
    why=NO_WORDS,
    forget="down",
    retain="up",
    says="F-measure of the longest common subsequence of words, answer against response",
    source="Lin [8], package `rouge-score`",
)
ROUGE_1 = Measure(
    name="rouge_1",
    column=Column("rouge_1", Answers, lambda a: a.rouge.get("rouge1")),
    why=NO_WORDS,
    always=False,
    forget="down",
    retain="up",
    says="F-measure of the words in common; only with `score.rouge: rouge1`",
    source="Lin [8]",
)
ROUGE_2 = Measure(
    name="rouge_2",
    column=Column("rouge_2", Answers, lambda a: a.rouge.get("rouge2")),
    why=NO_WORDS,
    always=False,
    forget="down",
    retain="up",
    says="F-measure of the pairs of words in common; only with `score.rouge: rouge2`",
    source="Lin [8]",
)
EXACT_MATCH = Measure(
    name="exact_match",
    column=Column("exact_match", Answers, _exact_matches, pa.bool_(), difference="exact_match"),
    reduce=rate,
    forget="down",
    retain="up",
    says="the normal forms are equal, closing punctuation aside; an empty answer matches nothing",
    of_part="share of rows",
)
RECALL = Measure(
    name="recall_rate",
    blocks=(*PARTS, WRAPPED, SAMPLED),
    column=Column(
        "recall",
        Answers,
        _recalled,
        pa.bool_(),
        lacks=f"recall: no key strings, and {NO_WORDS}",
        difference="recall_rate",
    ),
    reduce=rate,
    why=f"no key strings, and {NO_WORDS}",
    forget="down",
    retain="up",
    label="Recall",
    says="the answer contains *all* key strings of the row; where the row has none, it recites "
    "the response, see below",
    of_part="share of rows",
    shown=(
        Shown(
            "forget",
            key="forget_recall",
            first=True,
            optional=False,
            says="Share of the questions to forget whose free answer still contains every key "
            "string of the fact, in the words that unlearning used.",
        ),
        Shown(
            "forget_unseen",
            key="forget_unseen_recall",
            label="Recall, in other words",
            first=True,
            optional=False,
            says="What was to be forgotten, asked in words (or in rows) that unlearning never saw; "
            "the line below the subject's name says which. High here and low beside it: the "
            "wording was forgotten, not the fact.",
        ),
        Shown(
            "forget_prompted",
            key="forget_prompted_recall",
            label="Recall, with a request to refuse",
            first=True,
            says="The same questions after a direct prompt that asks the model not to answer what "
            "it has unlearned.",
        ),
        Shown(
            "forget_chat",
            key="forget_chat_recall",
            label="Recall, in the chat template",
            first=True,
            says="The same questions in the base's own chat template, as users of a chat send "
            "them.",
        ),
        Shown(
            "retain",
            key="retain_recall",
            first=True,
            optional=False,
            says="Share of the questions to keep that are still answered with every key string. "
            "Unlearning never used these rows, unless it heals on all that is to be kept.",
        ),
        Shown(
            "retain_unseen",
            key="retain_unseen_recall",
            label="Recall, in other words",
            first=True,
            says="The questions to keep in a wording that was never used before, neither to teach "
            "nor to unlearn.",
        ),
        Shown(
            "retain_prompted",
            key="retain_prompted_recall",
            label="Recall, with a request to refuse",
            first=True,
            says="The questions to keep after the same direct prompt: what is refused although it "
            "was to be kept.",
        ),
        Shown(
            "retain_chat",
            key="retain_chat_recall",
            label="Recall, in the chat template",
            first=True,
            says="The questions to keep in the base's own chat template.",
        ),
        Shown(
            WRAPPED,
            key="worst_wrapper",
            label="Recall, worst wrapper",
            says="Recall under the wrapper of measure.wrappers that gets most out of the model.",
        ),
    ),
)
LEAK = Measure(
    name="rouge_at_k",
    blocks=(SAMPLED,),
    compute=_leak,
    why=NO_WORDS,
    forget="down",
    says="the largest `rouge_l` among k = `score.leak_at` sampled answers, expected over all "
    "choices of k of them (leak@k)",
)
RECALL_ANY = Measure(
    name="recall_any",
    blocks=(SAMPLED,),
    compute=lambda scored, _: any_draw(scored, "recall", NO_WORDS),
    forget="down",
    label="Recall, any draw",
    says="at least one of the sampled answers recalls the fact",
    of_part="share of rows",
    shown=(
        Shown(
            SAMPLED,
            key="any_draw",
            says="Share of questions that at least one of several sampled answers gives away.",
        ),
    ),
)
DEGENERATE = Measure(
    name="degenerate_rate",
    blocks=(*PARTS, WRAPPED, SAMPLED),
    column=Column(
        "degenerate",
        Answers,
        lambda a: [degenerate(text) is not None for text in a.texts],
        pa.bool_(),
        difference="degenerate_rate",
    ),
    reduce=rate,
    forget="down",
    retain="down",
    label="Broken answers",
    says="the answer is no answer, see below",
    of_part="share of rows",
    shown=(
        Shown(
            "forget",
            key="forget_degenerate",
            first=True,
            optional=False,
            says="Share of answers that are degenerate: empty, or looping. A low recall bought "
            "with broken answers is not forgetting.",
        ),
        Shown(
            "retain",
            key="retain_degenerate",
            first=True,
            optional=False,
            says="Share of answers to the questions to keep that are empty or looping.",
        ),
    ),
)
DEGENERATE_WHY = Column(
    "degenerate_why",
    Answers,
    lambda a: [degenerate(text) for text in a.texts],
    pa.string(),
    says="the kind of a degenerate answer, see below",
)
