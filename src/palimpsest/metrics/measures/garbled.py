"""Garbled answers, answers that the limit cut off, and what is forgotten in spite of both."""

from __future__ import annotations

import pyarrow as pa

from palimpsest.metrics.answers import Answers
from palimpsest.metrics.asked import ANSWERED
from palimpsest.metrics.declaration import (
    PARTS,
    SAMPLED,
    WRAPPED,
    Column,
    Measure,
    Shown,
)
from palimpsest.metrics.estimates import rate
from palimpsest.metrics.measures import answers as free
from palimpsest.metrics.teacher_forced import Reading

TO_FORGET = tuple(block for block in PARTS if block.startswith("forget"))
"""Blocks of what is to be forgotten."""
NOT_COMPARED = "no answers of `original` to compare with"
"""Why nothing is known of garbled answers."""


def _garbled(answers: Answers) -> list[bool] | None:
    if answers.garbled is None:
        return None
    return [why is not None for why in answers.garbled]


def _forgotten(answers: Answers) -> list[bool | None] | None:
    if answers.garbled is None or free.RECALL.column is None or free.DEGENERATE.column is None:
        return None
    columns = (free.RECALL.column.each(answers), free.DEGENERATE.column.each(answers))
    rows = zip(*(column for column in columns if column is not None), answers.garbled, strict=True)
    return [
        None if recalled is None else not (recalled or degenerate or why)
        for recalled, degenerate, why in rows
    ]


def _too_long(reading: Reading) -> list[bool] | None:
    limit = reading.longest_answer
    counts = reading.tokens.without_end.count.tolist()
    return None if limit is None else [count > limit for count in counts]


def _unfinished(answers: Answers) -> list[bool] | None:
    stopped = answers.generated.get("stopped")
    return None if stopped is None else [not ended for ended in stopped]


GARBLED = Measure(
    name="garbled_rate",
    blocks=(*PARTS, WRAPPED, SAMPLED),
    column=Column("garbled", Answers, _garbled, pa.bool_(), difference="garbled_rate"),
    reduce=rate,
    why=NOT_COMPARED,
    forget="down",
    retain="down",
    label="Garbled answers",
    says="the answer is no language, judged by those of `original` and `base`, see below",
    of_part="share of rows",
    shown=(
        Shown(
            "forget",
            key="forget_garbled",
            first=True,
            optional=False,
            says="Share of answers with invented or glued words, slow loops or broken characters, "
            "beyond what the models without unlearning write. A low recall bought with garbled "
            "answers is not forgetting.",
        ),
        Shown(
            "retain",
            key="retain_garbled",
            first=True,
            optional=False,
            says="Share of answers to the questions to keep that are garbled.",
        ),
    ),
)
GARBLED_WHY = Column(
    "garbled_why",
    Answers,
    lambda a: a.garbled,
    pa.string(),
    says="the kind of a garbled answer, see below",
)
FORGOTTEN = Measure(
    name="forgotten_rate",
    column=Column(
        "forgotten", Answers, _forgotten, pa.bool_(), blocks=TO_FORGET, difference="forgotten_rate"
    ),
    reduce=rate,
    why="no row has a recall",
    always=False,
    forget="up",
    label="Forgotten",
    says="the answer is neither recalled nor garbled nor degenerate",
    of_part="share of rows that have a recall",
    shown=(
        Shown(
            "forget",
            key="forgotten",
            first=True,
            optional=False,
            says="Share of the questions to forget that get an answer in order without the fact: "
            "neither recalled, nor garbled, nor empty or looping.",
        ),
        Shown(
            "forget_unseen",
            key="forgotten_unseen",
            label="Forgotten, unseen wording",
            says="The same after the question in other words.",
        ),
    ),
)
UNFINISHED = Measure(
    name="unfinished_rate",
    blocks=(*PARTS, WRAPPED, SAMPLED),
    column=Column("unfinished", Answers, _unfinished, pa.bool_(), difference="unfinished_rate"),
    reduce=rate,
    forget="down, to the level of `original`",
    retain="down, to the level of `original`",
    label="Unfinished answers",
    says="the limit cut the answer off: it has no end-of-text",
    of_part="share of rows",
    shown=(
        Shown("forget", key="forget_unfinished", says="Share of answers that the limit cut off."),
        Shown("retain", key="retain_unfinished", says="Share of answers that the limit cut off."),
    ),
)
TOO_LONG = Measure(
    name="too_long_rate",
    column=Column("too_long", Reading, _too_long, pa.bool_(), blocks=ANSWERED),
    reduce=rate,
    always=False,
    forget="0: else a cut answer counts as a forgotten one",
    retain="0",
    label="Responses beyond the limit",
    says="the response has more tokens than an answer may have, so that no answer is all of it",
    of_part="share of rows",
)
