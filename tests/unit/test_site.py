"""The documentation builds as a site: links lead somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit.copies import REPO
from palimpsest.objectives.catalog import algorithms

MKDOCS = REPO / ".venv/docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (MKDOCS / "mkdocs").is_dir():
        pytest.skip("MkDocs is not installed: make docs")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=REPO,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPO / "src"), str(MKDOCS)]),
            "NO_MKDOCS_2_WARNING": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_each_method_has_a_page_with_its_formula_and_its_settings(site: Path) -> None:
    for key, method in algorithms().items():
        family = method.__module__.rpartition(".")[2]
        assert key in (site / f"methods/{family}/index.html").read_text()
    page = (site / "methods/npo/index.html").read_text()
    assert "log sigmoid(beta (s_b - s0_b))" in page
    assert "learning_rate" in page


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'(?:src|<link[^>]+href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, page


def test_an_anchor_that_is_linked_exists(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    for page, text in pages.items():
        for target, anchor in re.findall(r'<a href="([^":]*)#([^"]+)"', text):
            there = (page.parent / target / "index.html") if target else page
            if there.resolve() in pages:
                assert f'id="{anchor}"' in pages[there.resolve()], f"{page}: {target}#{anchor}"
