"""Probe: do inner states tell the true statement from the false ones?

Each fact is said in its true and in several false answers (``perturbed``). A statement's feature at
a layer is the mean state over the tokens in which the answers differ, less the mean of that over
the answers: what the question gives away is the same in all of them. A logistic regression with a
ridge penalty learns true against false from half of the facts, where 3-fold cross-validation
chooses its strength; on the other half the value of a row is 1 if its true statement has the
highest score. With three false answers chance is 1/4, and the control shows how far the wording of
false answers alone gives them away.

Every layer is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.settings.types import Count

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target


class Settings(AttackSettings):
    """Settings of the probe."""

    level = "weights"
    unit = "probe"
    measured = ()

    kind: Literal["probe"]
    """Whether a layer's states tell the true statement from the false ones."""
    every: Count = 3
    """Step from layer to layer, counted from the last."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each fold."""
        return [Cell("", 0), Cell("", 1)]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """The scores of each measured row's statements, by a probe that was trained on others.

    Raises:
        NoRow: no row has wrong answers, or too few of the attacker's rows have.
    """
    from palimpsest.attacking.layers import chosen_layers
    from palimpsest.attacking.parts import parts_of
    from palimpsest.attacking.statements import Probe, features_of

    assert cell.fold is not None
    features = target.once("features", lambda: features_of(target))
    has = [row.fact for row in target.attackers(cell.fold) if row.fact in features]
    wanted = [row.fact for row in target.measured(target.forget, cell.fold) if row.fact in features]
    if not wanted:
        return Found([], why=f"no row of fold {cell.fold} has wrong answers (perturbed)")
    part = parts_of(target, has)
    count = next(iter(features.values())).shape[0] - 1
    found, facts = [], {}
    for layer in chosen_layers(count, settings.every):
        probe = Probe.trained([features[fact][layer].numpy() for fact in has], part)
        for fact in wanted:
            value = probe.tells(features[fact][layer].numpy())
            found.append(Outcome(fact, float(value), setting=str(layer)))
        facts[str(layer)] = {"layer": layer, f"fold {cell.fold}": {"strength": probe.strength}}
    return Found(found, facts)
