"""The stop rule of gradient ascent: the forget rows cost more than a limit.

The released LLMU code compares the *negated* cost with its limit, so it never stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palimpsest.engine.stream import Stream


def forgotten(forget: Stream, limit: float | None) -> str | None:
    """Why training ends: the mean cost (nats per token) of the step's forget rows; or None."""
    if limit is None or forget.cost is None:
        return None
    cost = forget.cost.item()
    return f"the forget rows cost {cost:.4g} > {limit:g} nats per token" if cost > limit else None
