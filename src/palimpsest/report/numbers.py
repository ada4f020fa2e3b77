"""Numbers of the report as people read them; time and memory: `palimpsest.io.numbers`."""

from __future__ import annotations

from palimpsest.io.numbers import size

DASH = "\N{EM DASH}"


def percent(share: float) -> str:
    """0.0625 -> ``6%``; shares that would round to 0 or 100 get one decimal."""
    value = 100 * share
    if 0 < value < 1 or 99 < value < 100:
        return f"{value:.1f}%"
    return f"{value:.0f}%"


def decimal(value: float) -> str:
    """Three significant digits: ``8.13``, ``27.4``, ``1,240``, ``2.1e+06``."""
    if abs(value) >= 1e5:
        return f"{value:.2g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def change(share: float) -> str:
    """-0.42 -> ``−42 pp``: percentage points, with their sign."""
    return f"{signed(100 * share)} pp"


def signed(value: float) -> str:
    """-12.4 -> ``−12``: a whole number with its sign; 0 has none."""
    rounded = round(value)
    return f"{rounded:+d}".replace("-", "\N{MINUS SIGN}") if rounded else "0"


def signed_decimal(value: float) -> str:
    """0.0312 -> ``+0.0312``: three significant digits with their sign."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def count(value: float) -> str:
    """``8,120``, ``81.2 k``, ``4.88 M``, ``6.74 G``."""
    if value >= 1e4:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= size:
                return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def megabytes(value: float) -> str:
    """Millions of bytes as `palimpsest.io.numbers.size` writes bytes."""
    return size(value * 1e6)
