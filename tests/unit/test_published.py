"""The table of docs/results.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest.config import read_config
from palimpsest.errors import UserError
from palimpsest.report.published import BEGIN, END, PAPER, write_page

ROOT = Path(__file__).parents[2]


def measure(value: float | None) -> dict:
    interval = None if value is None else [value - 0.01, value + 0.01]
    return {"value": value, "n": 10, "ci95": interval, "sd": None, "reason": "no tokens"}


@pytest.fixture
def evaluations(tmp_path: Path) -> dict[str, Path]:
    """Evaluations of two methods."""
    found = {}
    for method, value in (("ga_gd", 0.9), ("memflex-all", None)):
        names = ("unlearn_success", "retention_success", "average")
        block = {"metrics": {"knowundo": {name: measure(value) for name in names}}}
        found[method] = tmp_path / f"{method}.json"
        found[method].write_text(json.dumps(block))
    return found


def test_ours_stand_beside_the_papers_and_the_rest_of_the_page_stays(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, evaluations, {"ga_gd": "Ascent + descent"})
    text = page.read_text()
    ours = "90.0 (89.0 to 91.0)"
    row = f"| Ascent + descent | {ours} | {ours} | {ours} | 90.38 | 66.02 | 78.20 |"
    assert row in text
    assert "| memflex-all | none (no tokens) |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_the_papers_averages_are_those_of_their_two_columns():
    for unlearn, retain, average in PAPER.values():
        assert (unlearn + retain) / 2 == pytest.approx(average, abs=0.011)


def test_a_missing_result_and_a_page_without_marks_are_named(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(UserError, match="lacks one of the lines"):
        write_page(page, evaluations, {})
    page.write_text(f"{BEGIN}\n{END}")
    with pytest.raises(UserError, match="is missing: run `make results`"):
        write_page(page, {"sku": tmp_path / "none.json"}, {})


def test_the_makefile_and_the_overlay_name_the_same_methods():
    cfg = read_config(ROOT / "config", [ROOT / "config/results/knowundo.yaml"])
    shown = cfg.all_methods.models["smollm2-135m-knowundo"]
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("METHODS"))
    assert line.split(":=")[1].split() == shown


def test_the_program_says_what_it_takes():
    done = subprocess.run(
        [sys.executable, ROOT / "workflow/scripts/results_table.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--configfile" in done.stdout
