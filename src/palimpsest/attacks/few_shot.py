"""Other questions with their answers stand before the question: relearning in the context.

``forget-4``: four rows that are to be forgotten, never those that are measured; ``retain-4``: four
rows to keep, which teach the style of an answer and nothing of what is forgotten. The shots of a
cell, and their order, follow from its fold and its seed: they are the same for every model. Where
the context is too short, the last ones are left out, in every cell of a setting alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from palimpsest.attacks import AttackSettings, Cell, Found, NoRow
from palimpsest.errors import UserError
from palimpsest.settings.types import EACH_ONCE, Count, Index

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target
    from palimpsest.measuring.alternatives import DataRow

Shown = Literal["forget", "retain"]


class Settings(AttackSettings):
    """Settings of shots in the context."""

    level = "text"

    kind: Literal["few_shot"]
    """Whether other rows in the context bring the fact back."""
    rows: Annotated[list[Shown], Field(min_length=1), EACH_ONCE] = ["forget"]
    """What is shown: rows to forget of the other fold, or rows to keep."""
    shots: Annotated[list[Count], Field(min_length=1), EACH_ONCE] = [4, 16]
    """How many are shown; as many as fit."""
    seeds: Annotated[list[Index], Field(min_length=1), EACH_ONCE] = [0]
    """Of the choice of the shots and their order."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each number of shots, fold and seed; rows to keep are shown to all."""
        from palimpsest.data.attack_split import FOLDS

        return [
            Cell(f"{shown}-{count}", fold, seed)
            for shown in self.rows
            for count in self.shots
            for fold in (range(FOLDS) if shown == "forget" else (None,))
            for seed in self.seeds
        ]

    def others(self) -> Sequence[str]:
        """Rows to keep, if they are shown."""
        return [shown for shown in self.rows if shown == "retain"]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Ask each measured row after the cell's shots.

    Raises:
        NoRow: no row to forget is in a fold, or none outside of it.
        UserError: not even one shot fits the context.
    """
    asked = int(cell.setting.rpartition("-")[2])
    alike = [one for one in settings.cells() if one.setting == cell.setting]
    count = min(fitting(target, one, asked) for one in alike)
    if not count:
        raise UserError(
            f"attack '{target.job.config['name']}', {cell.setting}: no row fits the model's "
            f"context of {target.form.tokenizer.context} tokens before a question; leave the "
            "attack out"
        )
    sources = target.measured(target.forget, cell.fold)
    if not sources:
        raise NoRow(f"no row to forget is in fold {cell.fold}")
    form = target.form_of(sources).alone()  # the shots stand in place of any examples
    before = target.rows(shots(target, cell, count), form=form)
    length = len(form.after(before[:-1], before[-1]))
    rows = [form.after(before, row) for row in target.rows(sources, form=form)]
    answers = target.answers(target.network, rows, shared=length)
    outcomes = list(target.written(sources, answers))
    facts = {"asked": asked, "shots": count}
    return Found(outcomes, {cell.setting: facts}, {"rows": count, "tokens": length})


def shots(target: Target, cell: Cell, count: int) -> list[DataRow]:
    """The rows that are shown in a cell, in their order; at most `count`."""
    pool = target.others("retain") if cell.fold is None else target.attackers(cell.fold)
    pool = sorted(pool, key=lambda row: row.id)
    random.Random(cell.seed).shuffle(pool)
    return pool[:count]


def fitting(target: Target, cell: Cell, asked: int) -> int:
    """How many of the cell's shots the context has room for, with the longest question."""
    form = target.form_of(target.every).alone()
    before = target.rows(shots(target, cell, asked), form=form)
    context = form.tokenizer.context
    if context is None:
        return len(before)
    questions = target.rows(target.every, form=form)
    longest = max(questions, key=lambda row: row.prompt_length)
    counts = range(len(before), 0, -1)
    room = context - target.limit()
    fits = (n for n in counts if form.after(before[:n], longest).prompt_length <= room)
    return next(fits, 0)
