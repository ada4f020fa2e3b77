"""Which rows of a part get a free answer, where answers are wanted of some alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

NOT_ASKED = "no free answer was asked for"
"""Why a row has no measure of free answers."""


def asked(ids: Sequence[str], count: int | None) -> list[str]:
    """At most `count` of `ids` (null: all), in the order given.

    The draw is a fixed ranking of the underlying rows, so it is the same for every method and
    seed, and parts that ask the same rows in other words (unseen, with a prompt) draw the same.
    It needs no torch: scoring draws again what measuring drew.
    """
    if count is None or count >= len(ids):
        return list(ids)
    chosen = set(sorted(ids, key=_rank)[:count])
    return [name for name in ids if name in chosen]


def _rank(name: str) -> tuple[str, str]:
    # A paraphrase has the id of its row and a letter: "hazards-00003-u" asks "hazards-00003".
    row = re.sub(r"-[tu]$", "", name)
    return hashlib.sha256(f"answers {row}".encode()).hexdigest(), name
