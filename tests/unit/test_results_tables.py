"""The table of docs/results.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from palimpsest.config import read_config
from palimpsest.errors import UserError
from palimpsest.io.tables import write_table
from palimpsest.report.results_tables import PAPER, TABLES, TASK, marks
from palimpsest.report.results_tables import write_table as published

ROOT = Path(__file__).parents[2]
SUBJECTS = {
    "knowundo": "smollm2-135m-knowundo",
    "truthfulqa": "smollm2-135m",
    "tofu": "smollm2-135m-tofu",
}


def measure(value: float | None) -> dict:
    interval = None if value is None else [value - 0.01, value + 0.01]
    return {"value": value, "n": 10, "ci95": interval, "sd": None, "reason": "no tokens"}


@pytest.fixture
def evaluations(tmp_path: Path) -> dict[str, Path]:
    """Evaluations of two methods."""
    found = {}
    for method, value in (("ga_gd", 0.9), ("memflex-all", None)):
        names = ("unlearn_success", "retention_success", "average")
        block = {
            "metrics": {
                "knowundo": {name: measure(value) for name in names},
                "lm_eval": {TASK: {"acc": measure(0.25)}},
                "forget": {
                    "recall_rate": measure(0.5),
                    "garbled_rate": measure(0.25),
                    "known_rate": measure(None),
                    "truth_ratio": measure(0.6),
                    "rouge_l": measure(0.4),
                },
                "forget_unseen": {"recall_rate": measure(0.0)},
                "retain": {"recall_rate": measure(value), "rouge_l": measure(0.8)},
                "utility": {"model_utility": measure(None)},
            }
        }
        found[method] = tmp_path / f"{method}.json"
        found[method].write_text(json.dumps(block))
    return found


def test_ours_stand_beside_the_papers_and_the_rest_of_the_page_stays(evaluations, tmp_path):
    page = tmp_path / "page.md"
    begin, end = marks("knowundo")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    published(page, "knowundo", evaluations, {"ga_gd": "Ascent + descent"})
    text = page.read_text()
    ours = "90.0 (89.0 to 91.0)"
    row = f"| Ascent + descent | {ours} | {ours} | {ours} | 90.38 | 66.02 | 78.20 |"
    assert row in text
    assert "| memflex-all | none (no tokens) |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_general_figures_stand_beside_what_was_forgotten(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(marks("truthfulqa")))
    published(page, "truthfulqa", evaluations, {})
    kept, forgotten = "90.0 (89.0 to 91.0)", "50.0 (49.0 to 51.0)"
    row = f"| ga_gd | 25.0 (24.0 to 26.0) | {forgotten} | {kept} | none (no tokens) |"
    assert row in page.read_text()
    text = evaluations["ga_gd"].read_text()
    evaluations["ga_gd"].write_text(text.replace(TASK, "mmlu"))
    with pytest.raises(UserError, match=r"ga_gd: eval\.json has no 'local:truthfulqa/all'"):
        published(page, "truthfulqa", evaluations, {})


def test_tofu_has_its_own_measures_and_what_attacks_bring_back(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(marks("tofu")))
    folder = tmp_path / "ga_gd"
    folder.mkdir()
    evaluations["ga_gd"] = evaluations["ga_gd"].rename(folder / "eval.json")
    (folder / "compare.json").write_text(json.dumps({"forget_quality": {"p": 1.5e-7}}))
    (folder / "robust.json").write_text(json.dumps({"recoverable": measure(0.7)}))
    published(page, "tofu", evaluations, {})
    ratio, forgotten, kept = (
        f"{v:.2f} ({v - 0.01:.2f} to {v + 0.01:.2f})" for v in (0.6, 0.4, 0.8)
    )
    back = "0.70 (0.69 to 0.71)"
    row = f"| ga_gd | 1.5e-07 | none (no tokens) | {ratio} | {forgotten} | {kept} | {back} |"
    assert row in page.read_text()
    assert (
        f"| memflex-all |  | none (no tokens) | {ratio} | {forgotten} | {kept} |  |"
        in page.read_text()
    )


def test_every_method_has_a_line_in_per_cent(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(marks("methods")))
    published(page, "methods", evaluations, {"ga_gd": "Ascent + descent"})
    assert "| `ga_gd` | 50 | 0 | 25 |  | 90 |" in page.read_text()


@pytest.mark.parametrize("table", TABLES)
def test_the_page_has_a_place_for_each_table(table):
    text = (ROOT / "docs/results.md").read_text()
    assert [text.count(mark) for mark in marks(table)] == [1, 1]


def test_the_papers_averages_are_those_of_their_two_columns():
    for unlearn, retain, average in PAPER.values():
        assert (unlearn + retain) / 2 == pytest.approx(average, abs=0.011)


def test_a_missing_result_and_a_page_without_marks_are_named(evaluations, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(UserError, match="lacks one of the lines"):
        published(page, "knowundo", evaluations, {})
    page.write_text("\n".join(marks("knowundo")))
    with pytest.raises(UserError, match="is missing: run `make results`"):
        published(page, "knowundo", {"sku": tmp_path / "none.json"}, {})


@pytest.mark.parametrize(("overlay", "subject"), SUBJECTS.items())
def test_an_overlay_shows_the_subject_of_its_table_alone(overlay, subject):
    cfg = read_config(ROOT / "config", [ROOT / f"config/results/{overlay}.yaml"])
    assert list(cfg.all_methods.models) == [subject]


def test_the_program_says_what_it_takes():
    done = subprocess.run(
        [sys.executable, ROOT / "workflow/scripts/results_table.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--configfile" in done.stdout


def test_what_the_region_changes_is_said_with_an_interval(evaluations, tmp_path):
    """Two seeds of 40 rows: the region forgets a fifth more and keeps the same."""
    for name, forget, cycle in (("memflex-tuned", 0.2, 5), ("memflex-all-tuned", 0.4, 7)):
        rows = [
            {"seed": seed, "part": part, "id": str(i), "group": str(i), "accuracy": value}
            for seed in (101, 102)
            for part, mean in (("forget", forget), ("retain", 0.9))
            for i in range(40)
            for value in (mean + 0.001 * (i % cycle),)
        ]
        folder = tmp_path / name
        write_table(folder / "rows.parquet", pa.Table.from_pylist(rows))
        found = json.loads(evaluations["ga_gd"].read_text()) | {"confidence": 0.95}
        (folder / "eval.json").write_text(json.dumps(found))
        evaluations[name] = folder / "eval.json"
    page = tmp_path / "page.md"
    page.write_text("\n".join(marks("knowundo")))
    published(page, "knowundo", evaluations, {"memflex-tuned": "MemFlex, tuned"})
    text = page.read_text()
    assert "Unlearn Success +20.1 points (+20.0 to +20.2; p 0.0004)" in text
    assert "Retention Success -0.1 points (-0.2 to -0.0" in text
    assert "| MemFlex, tuned |" in text
    assert "| 82.95 | 81.80 | 82.37 |" in text, "the paper's, beside the tuned entry"
