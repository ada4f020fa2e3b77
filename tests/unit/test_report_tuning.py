"""The report's section on tuning, from planted searches: points, choice, optimism, budget."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow.parquet as pq
import pytest

from kit.html_tree import Tree
from kit.reports import SLICE, write_results
from kit.tuned import REASON, lines, write_search
from palimpsest.errors import UserError
from palimpsest.metrics.pairs import BETTER
from palimpsest.pipeline.stages import Report
from palimpsest.report.headlines import best
from palimpsest.report.inputs import Subject, read_subjects
from palimpsest.report.tuning import MET, MISSED, SHAPES, found_by_trial, optimism, tuning
from palimpsest.stages.report import report


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "results"
    write_results(folder)
    return folder


@pytest.fixture(scope="module")
def results(by_hand: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(by_hand, tmp_path_factory.mktemp("own") / "results"))
    write_search(folder / "mini" / "sku-anchored")
    return folder


@pytest.fixture(scope="module")
def subject(results: Path) -> Subject:
    return read_subjects(SLICE, results)[0]


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return written(results)


def written(results: Path) -> str:
    out = results / "report.html"
    report(Report(config=SLICE, results=results, out=out, tables=results / "tables"))
    return out.read_text(encoding="utf-8")


def words(page: str) -> str:
    return " ".join(" ".join(Tree(page).text).split())


def points(chart: Any) -> list[dict[str, Any]]:
    return [p for layer in chart.spec["layer"][1:] for p in layer["data"]["values"]]


def test_the_line_of_optimism_names_both_kinds_of_rows(subject: Subject) -> None:
    section = tuning(subject)
    assert section is not None
    (search,) = section.searches
    chosen, worth, budget = search.says
    assert "trial r0-t001 at scale 0.5" in chosen
    assert "By hand, on the same rows: 60% to forget, 78% to keep." in chosen
    # The method recalls 1 of 24 rows and keeps 11 of 12.
    of_both = "recall of what is to be forgotten 40% on 12 rows that chose, 4% on 24 others"
    assert of_both in worth
    assert "of what is to be kept 90% on 20 rows that chose, 92% on 12 others" in worth
    assert "4 trials, 1 of them stopped, each at 2 scales" in budget
    assert "on 24 to 256 rows of training, 2 min 9 s in all" in budget
    # (.9 - .6) .3 + (.6 - .2) .95 + .2 1
    assert "67% of the plane" in budget


def test_optimism_is_above_zero_where_the_choosing_rows_flatter() -> None:
    assert optimism("forget", 0.06, 0.08) == pytest.approx(0.02)
    assert optimism("retain", 0.95, 0.9) == pytest.approx(0.05)
    assert optimism("retain", None, 0.9) is None


def test_every_kind_of_point_has_a_shape_of_its_own(subject: Subject) -> None:
    section = tuning(subject)
    assert section is not None
    chart = section.searches[0].chart
    alt.LayerChart.from_dict(chart.spec, validate=True)
    alt.LayerChart.from_dict(section.best.spec, validate=True)
    drawn = points(chart)
    assert [p["kind"] for p in drawn].count(MET) == 3
    assert [p["kind"] for p in drawn].count(MISSED) == 3
    marks = {p["kind"]: (p["x"], p["y"]) for p in drawn if p["kind"] not in (MET, MISSED)}
    assert marks["by hand"] == (0.4, 0.8)
    assert marks["chosen"] == (0.6, 0.95)
    assert marks["original"] == (0.0, 1.0)
    assert marks["stopped"][1] < 0, "it has no values"
    assert "retrained" not in marks, "this page has no such model"
    shapes = [shape for shape, _ in SHAPES.values()]
    assert len(set(shapes)) == len(shapes)
    corners = [(p["x"], p["y"]) for p in chart.spec["layer"][0]["data"]["values"]]
    assert corners == [(0, 1), (0.2, 1), (0.6, 0.95), (0.9, 0.3), (0.9, 0)]
    assert [row[0] for row in chart.rows] == [line["trial"] for line in lines()]


def test_a_table_has_the_best_point_of_each_trial(subject: Subject) -> None:
    section = tuning(subject)
    assert section is not None
    trials = section.searches[0].trials
    assert [(t.name, t.scale, t.forget, t.retain) for t in trials] == [
        ("r0-t000", "0.5", "80%", "100%"),
        ("r0-t001", "0.5", "40%", "95%"),
        ("r0-t002", "0.5", "90%", "100%"),
        ("r0-t003", "1", "not measured", "not measured"),
    ]
    assert trials[0].settings == "its own"
    assert trials[1].settings == "learning_rate 0.00125, steps 16"
    assert trials[1].status == "chosen, conditions met"
    assert trials[3].status == f"stopped: {REASON}"


def test_a_trial_finds_what_it_forgets_where_the_conditions_are_met(subject: Subject) -> None:
    assert found_by_trial(lines()) == [0.2, 0.6, 0.1, 0.0]
    assert found_by_trial(lines(feasible=False)) == [0.0] * 4
    section = tuning(subject)
    assert section is not None
    # One of four trials, then the best of two draws.
    assert section.best.rows[0] == ["SKU, anchored", "1", "22%"]
    assert section.best.rows[1] == ["SKU, anchored", "2", "34%"]


def test_the_page_has_the_section_and_says_what_is_by_hand(page: str) -> None:
    tree = Tree(page)
    assert tree.open == []
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in tree.attributes("a", "href") if href.startswith("#")]
    assert "mini-tuning" in targets
    assert set(targets) <= set(ids)
    table = page.split('<table class="methods"')[1].split("</table>")[0]
    sets = re.findall(r'<small class="set">(.*?)</small>', table)
    assert sets == ["by hand", "tuned"], "references are neither"
    assert "Places by each question" in words(page)


def test_without_a_tuned_method_there_is_no_such_section(by_hand: Path) -> None:
    page = written(by_hand)
    assert ">Tuning</h2>" not in page
    assert "mini-tuning" not in page
    assert 'class="set"' not in page
    assert pq.read_table(by_hand / "tables" / "trials.parquet").num_rows == 0


def test_tables_have_every_point_and_every_search(results: Path, page: str) -> None:
    tables = results / "tables"
    assert pq.read_table(tables / "trials.parquet").num_rows == len(lines())
    with (tables / "tuning.csv").open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["method"], line["trial"], line["feasible"]) == ("sku-anchored", "r0-t001", "true")
    assert float(line["hypervolume"]) == pytest.approx(0.67)
    assert float(line["forget_optimism"]) == pytest.approx(1 / 24 - 0.4)
    assert json.loads(line["settings"])["steps"] == 16
    best = pq.read_table(tables / "expected_best.parquet").to_pylist()
    assert [one["trials"] for one in best] == [1, 2, 3, 4]
    ranked = pq.read_table(tables / "places.parquet").to_pylist()
    assert {one["method"] for one in ranked} == {"sku", "sku-anchored"}
    for name in ("trials", "tuning", "expected_best", "places"):
        assert f'href="tables/{name}.csv"' in page


def test_a_method_without_a_feasible_point_is_shown_and_not_ranked(
    by_hand: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(by_hand, tmp_path / "results"))
    write_search(own / "mini" / "sku", feasible=False)
    subject = read_subjects(SLICE, own)[0]
    assert not next(run for run in subject.runs if run.method == "sku").ranked
    winning = [pair for pair in subject.pairs if pair.verdict == BETTER]
    assert best(subject) is None, f"one method alone is ranked, whatever {winning} say"
    page = words(written(own))
    assert "No setting met the conditions, so this method is not ranked." in page
    assert "Not ranked, because no setting met the conditions of the search: SKU." in page
    assert pq.read_table(own / "tables" / "places.parquet").num_rows == 0
    assert pq.read_table(own / "tables" / "pairs.parquet").num_rows > 0, "its tests are shown"


def test_a_search_that_is_not_there_is_named(results: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(results, tmp_path / "results"))
    (own / "mini" / "sku-anchored" / "tune" / "trials.parquet").unlink()
    with pytest.raises(UserError, match=r"tune/trials\.parquet"):
        read_subjects(SLICE, own)
