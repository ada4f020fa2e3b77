"""What published files give back: parts of a model left out or turned round, and what lies beside.

An adapter whose first ranks are those of the model before unlearning holds that model: who leaves
out the others has it, without any training. The same is so of a difference of weights beside an
adapter. It is a property of the form in which a model is published, not of the method, so it is
shown apart from `recoverable` and decides a verdict about an attacker who has the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.metrics.asked import draw_ids
from palimpsest.settings.types import Count

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target

FIRST = "first"
PARTS = {
    FIRST: (1, 0, 0),
    "adapter-off": (0, 0, 1),
    "delta-off": (1, 1, 0),
    "rest": (0, 1, 1),
    "flipped": (1, -1, -1),
}
"""Setting -> factors of the adapter's first ranks, as many as the adapter of the model before
unlearning has; of its other ranks; and of the differences of base tensors."""


class Settings(AttackSettings):
    """Settings of the slices of the published files."""

    level = "files"
    against_original = True
    unit = "form"

    kind: Literal["files"]
    """What is left of the model if parts of its published files are left out or turned round."""
    rows: Count | None = 32
    """Rows that are asked under each slice, drawn once for all models; null: all."""


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Ask each slice that is another model than the whole, the base and those before it.

    The first ranks are asked also where they are all there is, as of `original`, or where there are
    none, as of a method on a subject that is its base.
    """
    from palimpsest.attacking.files import beside, slices_of
    from palimpsest.attacking.weights import Weighted, change_of

    job = target.job
    change = change_of(job.model, job.base)
    slices = slices_of(change, change_of(target.original, job.base))
    drawn = set(draw_ids([row.id for row in target.forget], settings.rows))
    rows = [row for row in target.forget if row.id in drawn]
    weighted = Weighted(target.load_base(), job.base, change)
    outcomes: list[Outcome] = []
    for name, (factors, deltas) in slices.items():
        weighted.set(factors, deltas)
        outcomes += target.asked(weighted.network, rows, setting=name)
    subject = target.original.parents[2] / "subject"
    facts: dict[str, Mapping[str, object]] = {name: {} for name in slices}
    facts[BESIDE] = {"folders": beside(job.model, subject)}
    return Found(outcomes, {name: dict(one) for name, one in facts.items()})


BESIDE = "beside"
"""Among the facts: what lies beside the model: path, what it holds, whether it is private."""
