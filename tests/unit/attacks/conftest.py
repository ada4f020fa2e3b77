"""The small model of the attacks on inner states, trained once."""

from __future__ import annotations

import pytest

from kit.inner import Small


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A model that knows its facts."""
    return Small(tmp_path_factory.mktemp("small"))
