"""Measures under teacher forcing: how well the model predicts each token of the true response."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from palimpsest.metrics.declaration import Column, Measure, Scored, Shown
from palimpsest.metrics.estimates import TOO_LARGE, Estimate, perplexity
from palimpsest.metrics.teacher_forced import NO_TOKENS, Reading, Tokens


def accuracy(tokens: Tokens) -> np.ndarray:
    """Share of each row's tokens that the model ranks first."""
    return tokens.mean(tokens.hit)


def extraction_strength(tokens: Tokens) -> np.ndarray:
    """1 - k/n, k the shortest prefix after which all remaining tokens are ranked first."""
    prefix = np.zeros(tokens.rows, dtype=np.int64)
    np.maximum.at(prefix, tokens.row, np.where(tokens.hit, 0, tokens.place + 1))
    return 1 - tokens.per_token(prefix.astype(np.float64))


def probability(tokens: Tokens) -> np.ndarray:
    """P(response | prompt) ** (1 / tokens): the geometric mean of the tokens' probabilities."""
    return np.exp(tokens.mean_logprob)


def row_perplexity(tokens: Tokens) -> np.ndarray:
    """exp(-mean log-probability) of each row; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return np.exp(-tokens.mean_logprob)


def _perplexity(scored: Scored, block: str) -> Estimate:
    columns = scored.parts[block]
    return perplexity(
        columns["logprob_sum"],
        columns["target_tokens"],
        scored.groups[block],
        scored.settings,
        NO_TOKENS,
    )


TARGET_TOKENS = Column("target_tokens", Reading, lambda r: r.tokens.count, pa.int32())
LOGPROB_SUM = Column("logprob_sum", Reading, lambda r: r.tokens.total(r.tokens.logprob))
MEAN_LOGPROB = Column(
    "mean_logprob", Reading, lambda r: r.tokens.mean_logprob, difference="mean_logprob"
)
ACCURACY = Measure(
    name="accuracy",
    column=Column(
        "accuracy", Reading, lambda r: accuracy(r.tokens.without_end), difference="accuracy"
    ),
    why=NO_TOKENS,
    forget="down",
    retain="up",
    label="Token accuracy",
    says="mean of hit(t)",
    source="KnowUnDo's evaluation [3]",
    shown=(
        Shown(
            "forget",
            first=True,
            optional=False,
            says="Share of the answer's tokens that the model would have chosen itself, given all "
            "tokens before. Grammar alone predicts a part of them: a model that never learned the "
            "facts is not at 0.",
        ),
        Shown(
            "retain",
            first=True,
            optional=False,
            says="Share of the true answer's tokens that the model would have chosen itself, given "
            "all tokens before.",
        ),
        Shown(
            "forget",
            difference=True,
            key="forget_difference",
            label="Token accuracy, to forget",
            says="Mean change of the rows' token accuracy, in percentage points. Rows are paired, "
            "so the interval is narrow where all of them change alike.",
        ),
        Shown(
            "retain",
            difference=True,
            key="retain_difference",
            label="Token accuracy, to keep",
            says="The same for the rows to keep: 0 is what one wants.",
        ),
    ),
)
PERPLEXITY = Measure(
    name="perplexity",
    column=Column(
        "perplexity",
        Reading,
        lambda r: row_perplexity(r.tokens),
        lacks=f"perplexity: {TOO_LARGE}",
    ),
    compute=_perplexity,
    share=False,
    forget="up (to the level of untaught text)",
    retain="down",
    label="Perplexity",
    says="exp(-mean of log p(t))",
    of_part="exp(-(sum of log p over *all tokens of all rows*) / (number of tokens)): long rows "
    "weigh more",
    shown=(
        Shown(
            "retain",
            first=True,
            optional=False,
            says="How surprised the model is by the true answers; 1 is not at all.",
        ),
        Shown(
            "general",
            first=True,
            optional=False,
            says="How surprised the model is by answers that were taught to nobody: what "
            "unlearning did to the language itself.",
        ),
    ),
)
PROBABILITY = Measure(
    name="probability",
    column=Column(
        "probability", Reading, lambda r: probability(r.tokens), difference="probability"
    ),
    why=NO_TOKENS,
    forget="down",
    retain="up",
    says="exp(mean of log p(t)) = P(y given the prompt)^(1/n)",
    source="TOFU [7]",
)
EXACT_MEMORIZATION = Measure(
    name="exact_memorization",
    # The same number as the accuracy: the literature has two names for it.
    column=Column("exact_memorization", Reading, lambda r: accuracy(r.tokens.without_end)),
    why=NO_TOKENS,
    forget="down",
    retain="up",
    says="mean of hit(t)",
    source="Tirumala et al. [4]",
)
EXTRACTION_STRENGTH = Measure(
    name="extraction_strength",
    column=Column(
        "extraction_strength",
        Reading,
        lambda r: extraction_strength(r.tokens.without_end),
        difference="extraction_strength",
    ),
    why=NO_TOKENS,
    forget="down",
    retain="up",
    label="Extraction strength",
    says="1 - k/n, with k the length of the shortest prefix of y after which all remaining tokens "
    "are hits",
    source="after Carlini et al. [5], Wang et al. [6]",
    shown=(
        Shown(
            "forget",
            key="forget_extraction",
            says="How much of the answer the model continues by itself to its end, once given a "
            "beginning.",
        ),
    ),
)
