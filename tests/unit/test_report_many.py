"""The report of many methods and several subjects: overview, choice of answers, regions, stops."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.html_tree import Tree, body
from kit.reports import ENDED, MANY, METHODS, measure, write_results
from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.pipeline.stages import Report
from palimpsest.report import numbers
from palimpsest.report.answers import examples
from palimpsest.report.columns import columns_of
from palimpsest.report.headlines import headlines
from palimpsest.report.inputs import Subject, read_subjects
from palimpsest.report.overview import (
    DOT,
    LETTER,
    LINE,
    PLOT,
    X,
    Y,
    front,
    labelled,
    overview_charts,
)
from palimpsest.report.regions import region_charts
from palimpsest.stages.report import report as write_report


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "results"
    write_results(folder, config=MANY)
    return folder


@pytest.fixture(scope="module")
def subject(results: Path) -> Subject:
    return read_subjects(MANY, results)[0]


def report(results: Path, name: str = "all_methods") -> str:
    tables = results / {"report": "tables"}.get(name, name)
    write_report(Report(config=MANY, results=results, out=results / f"{name}.html", tables=tables))
    return (results / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return report(results)


@pytest.fixture
def own_results(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


def words(page: str) -> str:
    return " ".join(" ".join(Tree(page).text).split())


def test_the_page_is_well_formed_and_every_link_leads_somewhere(page: str, results: Path) -> None:
    tree = Tree(page)
    assert tree.open == []
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for href in tree.attributes("a", "href"):
        assert href[1:] in ids if href.startswith("#") else (results / href).is_file(), href
    assert "://" not in body(page)


@pytest.mark.parametrize(
    ("name", "title", "tables"),
    [
        ("report", "Palimpsest: Mini subject, Other subject", "tables"),
        ("all_methods", "Palimpsest, all methods: Mini subject, Other subject", "all_methods"),
    ],
)
def test_both_pages_have_their_own_title_and_tables(
    own_results: Path, name: str, title: str, tables: str
) -> None:
    page = report(own_results, name)
    assert f"<title>{title}</title>" in page
    assert ('<p class="name">All methods</p>' in page) == (name == "all_methods")
    links = {h for h in Tree(page).attributes("a", "href") if not h.startswith("#")}
    assert {link.split("/")[0] for link in links} == {tables}
    assert all((own_results / link).is_file() for link in links)


def test_several_subjects_have_a_table_of_contents(page: str) -> None:
    contents = page.split('<nav class="subjects"')[1].split("</nav>")[0]
    assert re.findall(r'href="#(.*?)">(.*?)<', contents) == [
        ("mini", "Mini subject"),
        ("other", "Other subject"),
    ]
    assert "13 methods; none is told apart as the best." in " ".join(contents.split())
    assert "1 method." in " ".join(contents.split()), "it is better than no other one"


def test_every_method_has_its_line_and_its_point(page: str, subject: Subject) -> None:
    table = page.split('<table class="methods"')[1].split("</table>")[0]
    assert re.findall(r'scope="row"><a.*?>(.*?)<', table) == list(METHODS.values())
    charts = overview_charts(subject)
    assert [c.id for c in charts] == ["mini-overview-recall", "mini-overview-accuracy"]
    for chart in charts:
        alt.LayerChart.from_dict(chart.spec, validate=True)
    assert [row[0] for row in charts[0].rows] == list(METHODS.values())
    # SKU has no accuracy on what is to be kept: no point can be drawn.
    assert [row[0] for row in charts[1].rows] == [t for t in METHODS.values() if t != "SKU"]
    recall = subject.runs[2].value("forget.recall_rate")
    assert recall is not None
    assert charts[0].rows[2][1] == f"{100 * recall:.0f}%"
    assert "may not be better: see the tests above" in charts[0].text


def test_references_are_marked_in_the_overview_and_not_ranked(subject: Subject) -> None:
    data = overview_charts(subject)[0].spec["layer"][2]["data"]["values"]
    kinds = {point["method"]: point["kind"] for point in data}
    assert [m for m, kind in kinds.items() if kind == "reference"] == ["Retrained", "Original"] or {
        m for m, kind in kinds.items() if kind == "reference"
    } == {"Original", "Retrained"}
    ranked = [headline.method for headline in headlines(subject)]
    assert len(ranked) == 13
    assert not {"original", "retrained"} & set(ranked)


def _box(point: dict[str, Any]) -> tuple[float, float, float, float]:
    x = (point["at_x"] - X[0]) / (X[1] - X[0]) * PLOT[0]
    y = (point["at_y"] - Y[0]) / (Y[1] - Y[0]) * PLOT[1]
    width = LETTER * len(point["method"])
    return (x - width * point["left"], y, x + width * (not point["left"]), y)


@pytest.mark.parametrize("where", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)])
def test_labels_of_points_in_one_place_do_not_overlap(where: tuple[float, float]) -> None:
    points = [
        {"method": title, "forget": where[0], "retain": where[1], "kind": "method"}
        for title in METHODS.values()
    ]
    boxes = [_box(point) for point in labelled(points)]
    for i, one in enumerate(boxes):
        assert one[0] >= -0.1
        assert one[2] <= PLOT[0] + 0.1
        for other in boxes[:i]:
            apart = one[2] <= other[0] + 0.2 or other[2] <= one[0] + 0.2
            assert apart or abs(one[1] - other[1]) >= LINE - 1


def point(method: str, forget: float, retain: float, kind: str = "method") -> dict[str, Any]:
    return {"method": method, "forget": forget, "retain": retain, "kind": kind}


def test_the_front_joins_what_no_other_method_beats() -> None:
    points = [
        point("gentle", 0.6, 0.9),
        point("beaten", 0.6, 0.8),
        point("harsh", 0.1, 0.2),
        point("worse than harsh", 0.2, 0.2),
        point("before", 1.0, 1.0, "reference"),
        point("middle", 0.3, 0.7),
    ]
    assert [p["method"] for p in front(points)] == ["harsh", "middle", "gentle"]
    assert front([]) == []


def test_a_closer_look_shows_what_sets_a_method_apart(page: str, results: Path) -> None:
    compared = json.loads((results / "mini" / "llmu" / "compare.json").read_text())
    change = compared["differences"]["forget"]["accuracy"]["value"]
    assert numbers.change(change) in words(page)
    assert numbers.change(-0.416) == "\N{MINUS SIGN}42 pp"
    assert numbers.signed(12.4) == "+12"


def test_labels_do_not_cover_points(subject: Subject) -> None:
    points = overview_charts(subject)[0].spec["layer"][2]["data"]["values"]
    for label in points:
        left, y, right, _ = _box(label)
        for point in points:
            px = (point["forget"] - X[0]) / (X[1] - X[0]) * PLOT[0]
            py = (point["retain"] - Y[0]) / (Y[1] - Y[0]) * PLOT[1]
            assert not (left < px < right and abs(py - y) < DOT), (label, point)


def test_answers_are_chosen_in_a_selector(page: str, subject: Subject) -> None:
    page = body(page)
    selector = page.split("data-compare")[1].split("</fieldset>")[0]
    assert re.findall(r'value="(.*?)"', selector) == list(METHODS)
    best = [headline.method for headline in headlines(subject)[:2]]
    chosen = re.findall(r'value="([^"]*)" checked', selector)
    assert set(chosen) == {"original", *best}
    first = page.split('id="mini-forget-forget-00000"')[1].split("</li>")[0]
    assert re.findall(r'class="answer" data-method="(.*?)"', first) == list(METHODS)
    # Two methods stand side by side: there is nothing to choose.
    other = page.split('<article id="other"')[1]
    assert "data-compare" not in other.split("</article>")[0]


def test_the_retrained_subject_is_a_reference(page: str, subject: Subject) -> None:
    text = words(page)
    assert "retrained: 0%" in text
    run = next(run for run in subject.runs if run.method == "retrained")
    assert len(run.training) == 2 * 40, "its training is shown"
    part = examples(subject, 8)[0]
    verdicts = {a.verdict for e in part.examples for a in e.answers if a.method == "retrained"}
    tones = {a.tone for e in part.examples for a in e.answers if a.method == "retrained"}
    assert verdicts == {"does not say it"}
    assert tones == {""}


def test_the_report_shows_the_early_end_of_a_training(
    page: str, subject: Subject, results: Path
) -> None:
    run = next(run for run in subject.runs if run.method == "llmu")
    assert len(run.training) == 2 * 32
    said = f"stopped at step 32 of 64: {ENDED}"
    text = words(page)
    assert f"Training of seed 0 {said}; of seed 1 {said}." in text
    methods = page.split('<article id="other"')[0].split("Each seed by itself")[0]
    tables = methods.count('<table class="methods"')
    assert page.count(">stopped early</small>") == tables > 1, "in each but those of seeds"
    table = pq.read_table(results / "all_methods" / "training.parquet").to_pylist()
    ended = [line for line in table if line["ended"]]
    assert [(line["method"], line["seed"], line["step"]) for line in ended] == [
        ("llmu", 0, 32),
        ("llmu", 1, 32),
    ]


def test_regions_are_drawn_and_counted(page: str, subject: Subject, results: Path) -> None:
    charts = region_charts(subject)
    assert [chart.id for chart in charts] == ["mini-memflex-region", "mini-memflex-random-region"]
    for chart in charts:
        alt.VConcatChart.from_dict(chart.spec, validate=True)
        assert len(chart.rows) == 36
        yes = [row for row in chart.rows if row[-1] == "yes"]
        assert chart.text.startswith(f"{len(yes)} of 36 tensors are trained (outlined)")
        assert f"{512 * len(yes):,} parameters" in chart.text
        assert chart.rows[: len(yes)] == yes, "the chosen ones stand first"
    assert "the rule: cosine below 0.7 and magnitude above 0.0001" in charts[0].text
    assert "drawn at random" not in charts[0].text
    assert "drawn at random, as many as by this rule" in charts[1].text
    assert page.count('<h2 id="mini-regions-h">') == 1
    assert "other-regions" not in page
    table = pq.read_table(results / "all_methods" / "regions.parquet")
    assert table.num_rows == 2 * 2 * 36
    assert table.column_names[:4] == ["model", "method", "seed", "tensor"]


def test_a_users_list_of_tensors_is_called_so(own_results: Path) -> None:
    path = own_results / "mini" / "memflex" / "seed-0" / "region.json"
    path.write_text(path.read_text().replace('"limits": {', '"limits": null, "was": {'))
    subject = read_subjects(MANY, own_results)[0]
    assert "the rule: a list of tensors from the user" in region_charts(subject)[0].text


def test_a_region_without_a_column_or_its_facts_is_named(own_results: Path) -> None:
    folder = own_results / "mini" / "memflex" / "seed-0"
    path = folder / "region.parquet"
    write_table(path, read_table(path)[0].drop_columns(["selected"]))
    with pytest.raises(UserError, match=r"region.parquet has no column 'selected'"):
        report(own_results)
    (own_results / "mini" / "memflex" / "seed-1" / "region.json").unlink()
    path.unlink()
    with pytest.raises(UserError, match=r"seed-1/region.json is missing"):
        report(own_results)


def test_knowundos_measures_have_columns(results: Path, page: str) -> None:
    table = page.split("Methods compared")[1].split('<details class="details"')[0]
    for name in ("Unlearn Success", "Retention Success", "Average"):
        assert name in table
    lines = pq.read_table(results / "all_methods" / "methods.parquet").to_pylist()
    line = next(line for line in lines if line["method"] == "memflex")
    assert line["unlearn_success"] == pytest.approx(1 - line["forget_accuracy"])
    assert line["knowundo_average"] == pytest.approx(
        (line["unlearn_success"] + line["retention_success"]) / 2
    )


def test_prompted_parts_have_columns_only_where_they_were_measured(subject: Subject) -> None:
    keys = {"forget_prompted_recall", "retain_prompted_recall"}
    assert not keys & {column.key for column in columns_of(subject.runs)}
    run = subject.runs[3]
    prompted: dict[str, Any] = {"recall_rate": measure([0.0, 1.0], 1)}
    metrics = run.eval["metrics"]
    changed = {**metrics, "forget_prompted": prompted, "retain_prompted": prompted}
    run.eval["metrics"] = changed  # type: ignore[index]
    try:
        assert keys < {column.key for column in columns_of(subject.runs)}
    finally:
        run.eval["metrics"] = metrics  # type: ignore[index]


def test_every_task_of_lm_eval_has_a_column(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "eval.json"
    found = read_document(path)
    acc, norm = measure([1.0, 0.0], 1), measure([1.0, 1.0], 1)
    known = {"version": 1, "shots": 0, "limit": None}
    found["metrics"]["lm_eval"] = {
        "local:questions/test": {"acc": acc, "acc_norm": norm, **known},
        "tinyMMLU": {"acc_norm": norm, **known},
        "wikitext": {"word_perplexity": {**acc, "value": 27.44}, **known},
    }
    write_document(path, found)
    table = report(own_results).split("Methods compared")[1].split('<details class="details"')[0]
    for name in ("questions/test", "tinyMMLU", "wikitext", "27.4", "not measured: eval.json"):
        assert name in table
    lines = pq.read_table(own_results / "all_methods" / "methods.parquet").to_pylist()
    sku = next(line for line in lines if line["method"] == "sku" and line["model"] == "mini")
    assert (sku["lm_eval_local_questions_test"], sku["lm_eval_tinyMMLU"]) == (0.5, 1.0)
    assert sku["lm_eval_local_questions_test_low"] == acc["ci95"][0]
    assert all(line["lm_eval_wikitext"] is None for line in lines if line != sku)


def test_rows_that_were_not_answered_are_no_examples(own_results: Path) -> None:
    for method in METHODS:
        path = own_results / "mini" / method / "rows.parquet"
        table = read_table(path)[0]
        lines = table.to_pylist()
        for line in lines:
            if line["part"] == "forget" and int(line["id"][-1]) % 2:
                line |= dict.fromkeys(("answer", "recall", "degenerate", "exact_match"))
        write_table(path, pa.Table.from_pylist(lines, schema=table.schema))
    part = examples(read_subjects(MANY, own_results)[0], 4)[0]
    assert [example.id[-2:] for example in part.examples] == ["00", "02", "04", "06"]
    assert part.total == 12
    assert "To forget: 8 of 12 rows" in words(report(own_results))


def test_a_text_without_a_question_is_shown_as_such(own_results: Path) -> None:
    for method in METHODS:
        path = own_results / "mini" / method / "rows.parquet"
        table = read_table(path)[0]
        lines = [{**line, "prompt": ""} for line in table.to_pylist()]
        write_table(path, pa.Table.from_pylist(lines, schema=table.schema))
    assert "(no question: the whole text)" in report(own_results)


def test_a_page_without_trade_offs_reads_none_that_lies_about(results: Path) -> None:
    def swept(slice_: dict[str, Any]) -> list[str]:
        return [run.method for run in read_subjects(slice_, results)[0].runs if run.sweep]

    assert swept(MANY)
    assert swept({**MANY, "sweeps": False}) == []
