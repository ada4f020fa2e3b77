"""Every defect on the pages of differences and benchmarks has a test, and every test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/differences.md").read_text(encoding="utf-8")
REPORTS = (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:tests/)?[\w/]*\.py)?::(test_\w+)`")


def named_tests() -> list[tuple[str, str]]:
    """(file, test) of every test on both pages; a name without a file goes on in the one before."""
    found, file = [], ""
    for match in NAMED.finditer(PAGE + REPORTS):
        file = match[1] or file
        found.append((file if file.startswith("tests/") else f"tests/unit/{file}", match[2]))
    return found


@pytest.mark.parametrize(("file", "test"), sorted(set(named_tests())))
def test_a_test_that_the_page_names_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8")


def test_every_line_about_a_defect_says_what_shows_its_absence() -> None:
    tables = re.findall(r"(?m)^\| what [^\n]*\n(?:\|[^\n]*\n)+", PAGE)
    rows = [line for table in tables for line in table.splitlines()[2:]]
    assert len(rows) > 80
    without = [row for row in rows if not re.search(r"::test_\w+`", row)]
    # What the environment settles has no test of its own.
    assert [row for row in without if "`envs/`" not in row] == []
