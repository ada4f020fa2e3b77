"""What the streams of a step read: a method's objective declares it, the engine carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Labels = Literal["own", "random", "adversarial"]
"""Targets of a stream: the rows' own tokens, random ones, or the subject's best wrong guesses."""


@dataclass(frozen=True)
class Draw:
    """The rows that one stream gives to every step.

    Attributes:
        rows: rows a step.
        sets: the scenario's sets that they come from: ``forget``, ``retain``, ``general``.
        labels: the targets; other than ``own`` they come from the labelled examples.
        answers_of: not empty: each prompt of the stream ``forget`` is followed by answers of other
            rows of these sets (a random mismatch), drawn anew in every step.
        signs: one for each of `sets`: the stream is a mixture whose rows carry these signs.
        reference: the terms need the subject's final hidden states on these rows.
    """

    rows: int
    sets: tuple[str, ...]
    labels: Labels = "own"
    answers_of: tuple[str, ...] = ()
    signs: tuple[int, ...] = ()
    reference: bool = False

    @property
    def examples(self) -> bool:
        """Whether the rows are made before training (labelled or mixed), as an artifact."""
        return self.labels != "own" or bool(self.signs)


@dataclass(frozen=True)
class Reads:
    """Hidden states that an objective reads.

    Attributes:
        final: those after the last norm; without them the pass ends at the highest of `blocks`.
        blocks: outputs of these blocks (0-based, before any final norm).
        every: all from what enters the first trained block to the last but one.
        untrained: streams whose states at `blocks` are also wanted from the untrained model.
        unread: streams that no term reads (their rows lend their prompts to another stream).
    """

    final: bool = True
    blocks: tuple[int, ...] = ()
    every: bool = False
    untrained: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
