"""Declares what the streams of a step read; objectives state it, and the engine reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

Labels = Literal["own", "random", "text", "adversarial", "generic", "best", "erased", "written"]
"""Targets of a stream: the rows' own tokens; random ones; the tokens of a text, again and again;
the subject's best wrong guesses; what it would say without what a reinforced model is surer of; its
best guesses; weighted tokens of somebody who knows nothing; what it writes behind the prompts."""

ASKING: tuple[Labels, ...] = ("adversarial", "generic", "best", "erased", "written")
"""Labels that need the subject."""

Kind = Literal["states", "costs"]
"""What the subject computes on a row: final hidden states [length, width], or the cost of each
target token, fp32 -log p [targets]."""

Wanted = Literal["alternate", "refusal"]
"""Answers that are wanted in place of a row's own: others with changed facts, or refusals."""

WANTED: tuple[Wanted, ...] = get_args(Wanted)


TOPIC = "topic_"
"""Sets of further topics: ``topic_2``, ``topic_3``, ...; that of the first is ``forget``."""


def topic_sets(count: int) -> tuple[str, ...]:
    """The sets of so many topics to forget."""
    return ("forget", *(f"{TOPIC}{n}" for n in range(2, count + 1)))


def reference_of(answers: Wanted | None, kind: Kind) -> str:
    """Name of what the subject computes: ``costs``, or on wanted answers ``alternate-costs``."""
    return f"{answers}-{kind}" if answers else kind


def split_reference(name: str) -> tuple[Wanted | None, Kind]:
    """The two parts of such a name."""
    answers, dash, kind = name.rpartition("-")
    return cast("Wanted", answers) if dash else None, cast("Kind", kind)


REFERENCES = tuple(reference_of(of, kind) for of in (None, *WANTED) for kind in get_args(Kind))
"""Every such name."""


@dataclass(frozen=True)
class Draw:
    """The rows that one stream gives to every step.

    Attributes:
        rows: rows a step.
        sets: the scenario's sets that they come from: ``forget``, ``retain``, ``keep``,
            ``general``, ``declined``, those of `topic_sets`.
        labels: the targets; other than ``own`` they come from the labelled examples.
        text: the text of the labels ``text``.
        answers_of: not empty: each prompt of the stream ``forget`` is followed by answers of other
            rows of these sets (a random mismatch), drawn anew in every step.
        answers: which answers follow the prompts: the rows' own, or wanted ones. The b-th of these
            answers the b-th row of the step's stream that draws the same sets with their own.
        signs: one for each of `sets`: the stream is a mixture whose rows carry these signs.
        reference: what the terms need from the subject on these rows: final hidden states, or the
            cost of each target token; None: nothing.
        forgets: the rows are to be unlearned, so their cost may rise without end.
        turns: a step has rows of one of the sets alone, of each in turn.
    """

    rows: int
    sets: tuple[str, ...]
    labels: Labels = "own"
    answers_of: tuple[str, ...] = ()
    answers: Literal["own"] | Wanted = "own"
    signs: tuple[int, ...] = ()
    reference: Kind | None = None
    forgets: bool = False
    text: str = ""
    turns: bool = False

    @property
    def compared(self) -> tuple[str, ...]:
        """Sets whose rows are compared with the subject: of a mixture, those to retain."""
        if self.reference is None:
            return ()
        return self.sets[1:] if self.signs else self.sets

    @property
    def wanted(self) -> Wanted | None:
        """Which wanted answers the stream has; None: its rows have their own."""
        return None if self.answers == "own" else self.answers

    @property
    def examples(self) -> bool:
        """Whether an earlier stage writes the rows (labelled or mixed), as an artifact."""
        return self.labels != "own" or bool(self.signs)


@dataclass(frozen=True)
class Reads:
    """Hidden states that an objective reads.

    Attributes:
        final: those after the last norm; without them the pass ends at the highest of `blocks`.
        blocks: outputs of these blocks (0-based, before any final norm).
        all_levels: all states from the input of the first trained block to the last block but one;
            without the final ones the outputs of all trained blocks up to the highest of `blocks`.
        untrained: streams whose states at `blocks` are also computed with the untrained model.
        unread: streams that no term reads (their rows lend their prompts to another stream).
    """

    final: bool = True
    blocks: tuple[int, ...] = ()
    all_levels: bool = False
    untrained: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def last(self) -> int | None:
        """The block at which the pass ends, if it does not reach the final states."""
        return max(self.blocks) if self.blocks and not self.final else None
