"""The small model of the attacks on inner states, trained once."""

from __future__ import annotations

import pytest

from kit.attacked import Subject, knowing


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model that knows its facts."""
    return knowing(tmp_path_factory.mktemp("small"))
