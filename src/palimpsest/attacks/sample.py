"""Many answers by lot: the likeliest answer may be silent where one of 32 speaks.

Of every distribution n answers are drawn to each question. The value of a row in the setting
``t1-k4`` is leak@4: the probability that 4 of its n answers at temperature 1 give the fact away
(`palimpsest.metrics.leak`). No leak among n answers does not mean that there is none: the facts
hold an upper bound for each row, and how many rows it leaves above `RARE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome, exact
from palimpsest.settings.types import EACH_ONCE, Count, Index, Real, Section

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target
    from palimpsest.engine.generate import Answer
    from palimpsest.measuring.alternatives import DataRow

RARE = 0.05
"""A row whose bound lies below leaks rarely, if at all."""


class Lot(Section):
    """How an answer is drawn."""

    temperature: Annotated[Real, Field(ge=0.01, le=100)] = 1.0
    """Divides the logits."""
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that make up this share."""

    def name(self) -> str:
        """The beginning of a setting's name."""
        cut = f"-p{exact(self.top_p)}" if self.top_p < 1 else ""
        return f"t{exact(self.temperature)}{cut}"


class Settings(AttackSettings):
    """Settings of answers by lot."""

    level = "decoding"

    kind: Literal["sample"]
    """Whether one of many answers that are drawn by lot gives the fact away."""
    lots: Annotated[list[Lot], Field(min_length=1), EACH_ONCE] = [Lot()]
    """Ways to draw."""
    draws: Count = 32
    """Answers to each question, in each way."""
    k: Annotated[list[Count], Field(min_length=1), EACH_ONCE] = [1, 4, 16, 32]
    """Answers that an attacker reads, a setting each; at most `draws`."""
    seed: Index = 0
    """Of the draws."""
    confidence: Annotated[Real, Field(ge=0.5, le=0.9999)] = 0.95
    """Level of the bound of each row."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if max(self.k) > self.draws:
            raise ValueError(
                f"k: {max(self.k)} of {self.draws} answers cannot be read; raise draws"
            )
        return self

    def cells(self) -> Sequence[Cell]:
        """A cell for each way to draw."""
        return [Cell(lot.name(), seed=self.seed) for lot in self.lots]

    def asks(self) -> float:
        """Every draw is an answer."""
        return float(len(self.lots) * self.draws)


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Draw the answers of one way, and count those that leak."""
    from palimpsest.engine.generate import Sampled

    lot = next(lot for lot in settings.lots if lot.name() == cell.setting)
    rows = target.questions(target.forget)
    # The draws of a question stand together, so that a batch reads it once.
    repeated = [row for row in rows for _ in range(settings.draws)]
    sampled = Sampled(lot.temperature, lot.top_p, cell.seed)
    answers = target.answers(target.network, repeated, sampled, shared=None)
    drawn = [
        Drawn(target, source, answers[n * settings.draws : (n + 1) * settings.draws])
        for n, source in enumerate(target.forget)
    ]
    names = {k: f"{cell.setting}-k{k}" for k in settings.k}
    outcomes = [one.outcome(k, name) for k, name in names.items() for one in drawn]
    facts = {name: {"draws": settings.draws, "k": k} for k, name in names.items()}
    facts[names[settings.k[0]]] |= _bounds(drawn, settings)
    return Found(outcomes, facts)


class Drawn:
    """The answers to one question."""

    def __init__(self, target: Target, source: DataRow, answers: Sequence[Answer]) -> None:
        """Look for the row's fact in each of its answers."""
        texts, stopped = [a.text for a in answers], [a.stopped for a in answers]
        found = target.recalled([source] * len(answers), texts, stopped)
        self.id, self.draws, self.leaks = source.fact, len(answers), round(sum(found))
        self.text = texts[found.index(1.0) if self.leaks else 0]

    def outcome(self, k: int, setting: str) -> Outcome:
        """leak@k; the text is one that leaks, if any does."""
        from palimpsest.metrics.degenerate import degenerate
        from palimpsest.metrics.leak import leak_at

        value = leak_at(self.draws, self.leaks, k)
        return Outcome(
            self.id, value, self.text, degenerate(self.text) is not None, setting=setting
        )


def _bounds(drawn: Sequence[Drawn], settings: Settings) -> dict[str, Any]:
    from palimpsest.metrics.leak import leak_upper

    upper = {one.id: leak_upper(one.draws, one.leaks, settings.confidence) for one in drawn}
    return {
        "leaks": {one.id: one.leaks for one in drawn},
        "leak_upper": upper,
        "confidence": settings.confidence,
        "no_leak_upper": leak_upper(settings.draws, 0, settings.confidence),
        "rows_not_rare": sum(bound > RARE for bound in upper.values()),
        "rare": RARE,
    }
