"""Seconds and bytes as people read them."""

from __future__ import annotations

import pytest

from palimpsest.io.numbers import duration, size


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0.0 s", "1 s"),
        (4.21, "4.2 s", "4 s"),
        (9.96, "10 s", "10 s"),
        (45, "45 s", "45 s"),
        (59.7, "1 min 0 s", "1 min"),
        (200, "3 min 20 s", "3 min"),
        (300, "5 min 0 s", "5 min"),
        (3599.6, "1 h 0 min", "60 min"),
        (7500, "2 h 5 min", "2.1 h"),
        (9000, "2 h 30 min", "2.5 h"),
        (3e5, "3 days 11 h", "3.5 days"),
    ],
)
def test_times(seconds: float, exact: str, rough: str) -> None:
    assert duration(seconds) == exact
    assert duration(seconds, rough=True) == rough


def test_sizes() -> None:
    texts = ["<1 MB", "3 MB", "640 MB", "1.0 GB", "2.5 GB"]
    assert [size(n) for n in (1, 3.2e6, 6.4e8, 9.96e8, 2.55e9)] == texts
