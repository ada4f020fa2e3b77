"""Data and logs of published benchmarks, which are handed over beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("PALIMPSEST_SHARED", Path(__file__).parents[3] / "shared")) / "data"
"""Where they are; the variable PALIMPSEST_SHARED names the folder ``shared`` elsewhere."""


def published(name: str) -> Path:
    """A file of it; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"published data that is not in the repository: no {path}")
    return path
