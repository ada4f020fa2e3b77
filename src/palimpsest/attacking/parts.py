"""Cross-validation among the rows that the attacker has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.attacking.target import Target
from palimpsest.attacks import NoRow

PARTS = 3
"""Parts: each is judged by what was fitted on the others."""


def parts_of(target: Target, facts: Sequence[str]) -> np.ndarray:
    """The part of each fact, int [facts]; facts that belong together are in one.

    Raises:
        NoRow: there are too few.
    """
    from sklearn.model_selection import GroupKFold

    groups = [target.split["groups"][fact] for fact in facts]
    if len(set(groups)) < PARTS:
        raise NoRow(
            f"a strength is chosen among facts in the attacker's hands: {PARTS} that do not belong "
            f"together are needed, and there are {len(set(groups))}"
        )
    part = np.empty(len(facts), int)
    for i, (_, judged) in enumerate(GroupKFold(PARTS).split(facts, groups=groups)):
        part[judged] = i
    return part
