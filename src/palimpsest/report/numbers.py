"""Numbers for readers."""

from __future__ import annotations

DASH = "\N{EM DASH}"


def percent(share: float) -> str:
    """0.0625 -> ``6%``; shares that would be rounded to 0 or 100 keep one decimal."""
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
    whole = round(value)
    return f"{whole:+d}".replace("-", "\N{MINUS SIGN}") if whole else "0"


def seconds(value: float) -> str:
    """``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"


def count(value: float) -> str:
    """``8,120``, ``81.2 k``, ``4.88 M``, ``6.74 G``."""
    if value >= 1e4:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= size:
                return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def megabytes(value: float) -> str:
    """``640 MB``, ``2.35 GB``."""
    return f"{value / 1000:.3g} GB" if value >= 1000 else f"{value:.0f} MB"
