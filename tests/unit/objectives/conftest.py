"""Inputs of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import methods
from kit import models as tiny
from palimpsest.io.manifest import write_manifest


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a job: a small base, which is its own subject, and tokens."""
    root = tmp_path_factory.mktemp("inputs")
    base = tiny.save_base(root / "base", tiny.llama(torch.float32))
    (root / "subject").mkdir()
    write_manifest(root / "subject", [])
    sets = {name: methods.SETS[name] for name in ("forget", "retain")}
    tiny.save_tokens(root / "tokens" / "set", sets)
    return {"base": base, "subject": root / "subject", "tokens": root / "tokens"}
