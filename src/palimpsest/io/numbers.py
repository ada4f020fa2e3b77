"""Seconds and bytes as people read them."""

from __future__ import annotations

HOUR, DAY = 3600, 86400


def duration(seconds: float, rough: bool = False) -> str:
    """``4.2 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 days 11 h``.

    Args:
        seconds: how long.
        rough: for estimates, one unit: ``1 s`` at least, ``3 min``, ``2.1 h``, ``3.5 days``.
    """
    if seconds < 59.5:
        if rough:
            return f"{max(seconds, 1):.0f} s"
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if rough:
        if seconds < HOUR:
            return f"{seconds / 60:.0f} min"
        return f"{seconds / HOUR:,.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:,.1f} days"
    rounded = round(seconds)
    if rounded < HOUR:
        return f"{rounded // 60} min {rounded % 60} s"
    if rounded < 2 * DAY:
        return f"{rounded // HOUR} h {rounded % HOUR // 60} min"
    return f"{rounded // DAY} days {rounded % DAY // HOUR} h"


def size(count: float) -> str:
    """Bytes: ``<1 MB``, ``640 MB``, ``2.4 GB``."""
    if count < 0.95e6:
        return "<1 MB"
    return f"{count / 1e6:,.0f} MB" if count < 0.995e9 else f"{count / 1e9:,.1f} GB"
