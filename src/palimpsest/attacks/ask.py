"""The question as it stands, in the words of unlearning and in unseen ones: no attack at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import FORGET, RETAIN, UNSEEN, AttackSettings, Cell, Outcome

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target


class Settings(AttackSettings):
    """Settings of the question without an attack."""

    level = "text"
    measured = (UNSEEN, RETAIN)

    kind: Literal["ask"]
    """What the model says when it is asked: the value before every attack. Answers that `measure`
    has are taken from there."""


def run(settings: Settings, cell: Cell, target: Target) -> Iterator[Outcome]:
    """Greedy answers to each measured row, in both wordings, and to rows that are to be kept."""
    yield from target.answered(target.forget, FORGET)
    yield from target.answered(target.unseen, UNSEEN)
    yield from target.answered(target.retain, RETAIN)
