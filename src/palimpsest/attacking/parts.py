"""Cross-validation among the rows that the attacker has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.attacking.target import Target
from palimpsest.errors import UserError

PARTS = 3
"""Parts: each is judged by what was fitted on the others."""


def parts_of(target: Target, facts: Sequence[str]) -> np.ndarray:
    """The part of each fact, int [facts]; facts that belong together are in one.

    Raises:
        UserError: there are too few.
    """
    from sklearn.model_selection import GroupKFold

    groups = [target.split["groups"][fact] for fact in facts]
    if len(set(groups)) < PARTS:
        raise UserError(
            f"attack '{target.job.config['name']}' chooses a strength among facts in the "
            f"attacker's hands: {PARTS} that do not belong together are needed, and it can use "
            f"{len(set(groups))}; leave the attack out of models.<name>.attacks"
        )
    part = np.empty(len(facts), int)
    for i, (_, judged) in enumerate(GroupKFold(PARTS).split(facts, groups=groups)):
        part[judged] = i
    return part
