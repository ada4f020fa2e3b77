"""Fluency and diversity of all answers.

A model that gives everybody the same answer has lost more than a fact.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from palimpsest.metrics.answers import Answers
from palimpsest.metrics.declaration import TEXT, Column, Measure, Scored, Shown
from palimpsest.metrics.estimates import Estimate, estimated, mean, missing, perplexity
from palimpsest.metrics.normalise import words

ORDERS = {2: 1 / 3, 3: 2 / 3}
"""Length of n-grams -> their weight in `ngram_entropy`."""


def ngram_entropy(answer: str) -> float:
    """Entropy in bits of an answer's bigrams (weight 1/3) and trigrams (2/3).

    The fluency of ROME (arXiv:2202.05262, appendix) and RWKU: low where an answer repeats itself,
    0 where it has two words or fewer.
    """
    text = words(answer)
    return math.fsum(weight * _entropy(_ngrams(text, n)) for n, weight in ORDERS.items())


def distinct(answers: Sequence[str], n: int) -> float | None:
    """Share of distinct n-grams among those of all answers (Li et al., arXiv:1510.03055).

    None where no answer has n words.
    """
    ngrams = [ngram for answer in answers for ngram in _ngrams(words(answer), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[i:] for i in range(n)), strict=False))


def _entropy(ngrams: Sequence[tuple[str, ...]]) -> float:
    total = len(ngrams)
    shares = [count / total for count in Counter(ngrams).values()]
    return -math.fsum(share * math.log2(share) for share in shares)


def _joined(scored: Scored, column: str) -> np.ndarray:
    """A column of all answered blocks, side by side: [seeds, rows]."""
    return np.concatenate([scored.parts[block][column] for block in scored.answers], axis=1)


def _groups(scored: Scored) -> np.ndarray:
    """The groups of the rows of `_joined`."""
    return np.concatenate([scored.groups[block] for block in scored.answers])


def _perplexity(scored: Scored, _: str) -> Estimate:
    tokens, sums = _joined(scored, "before_tokens"), _joined(scored, "before_logprob")
    answered = ~np.isnan(tokens).any(axis=0)
    return perplexity(
        sums[:, answered],
        tokens[:, answered],
        _groups(scored)[answered],
        scored.settings,
        "every answer is empty",
    )


def _distinct(scored: Scored, _: str) -> Estimate:
    n = scored.settings["distinct_n"]
    by_seed = [
        list(itertools.chain(*blocks)) for blocks in zip(*scored.answers.values(), strict=True)
    ]
    shares = [distinct(answers, n) for answers in by_seed]
    present = [share for share in shares if share is not None]
    if len(present) < len(shares):
        return missing(f"no answer has {n} words")
    # A share of all answers together has no value per row, and so no interval over rows.
    return estimated(np.array(present), len(by_seed[0]), None)


BEFORE_TOKENS = Column(
    "before_tokens", Answers, lambda a: a.generated.get("before_tokens"), pa.int32()
)
BEFORE_LOGPROB = Column("before_logprob", Answers, lambda a: a.generated.get("before_logprob"))
PERPLEXITY = Measure(
    name="perplexity",
    blocks=(TEXT,),
    compute=_perplexity,
    share=False,
    retain="down",
    label="Perplexity of answers",
    says="exp(-(sum of log q over all tokens of all answers) / (number of tokens)), q the "
    "probability under `original`; end-of-text and empty answers left out",
    of_part="",
    source="LLMU's fluency [12]",
    shown=(
        Shown(
            TEXT,
            key="answer_perplexity",
            says="How surprised the original is by this method's answers: babble is high.",
        ),
    ),
)
DISTINCT_N = Measure(
    name="distinct_n",
    blocks=(TEXT,),
    compute=_distinct,
    retain="up, to the level of `original`",
    label="Distinct n-grams",
    says="distinct n-grams of words / all of them, over all answers together (`score.distinct_n`: "
    "2); no interval, since no row has a value of its own",
    of_part="",
    source="Li et al. [13]",
    shown=(
        Shown(
            TEXT,
            key="distinct_n",
            says="Share of distinct word sequences in all answers: low where everybody gets the "
            "same one.",
        ),
    ),
)
NGRAM_ENTROPY = Measure(
    name="ngram_entropy",
    blocks=(TEXT,),
    column=Column("ngram_entropy", Answers, lambda a: [ngram_entropy(text) for text in a.texts]),
    compute=lambda scored, _: mean(
        _joined(scored, "ngram_entropy"), _groups(scored), scored.settings
    ),
    share=False,
    retain="up, to the level of `original`",
    says="1/3 of the entropy of an answer's bigrams + 2/3 of that of its trigrams, in bits; 0 for "
    "an answer of two words or fewer",
    source="Meng et al. [14]",
)
