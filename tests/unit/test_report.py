"""The report's page and tables, from results written as the stages write them."""

from __future__ import annotations

import base64
import copy
import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.html_tree import Tree, body
from kit.reports import SLICE, TROUBLE, facts, write_results
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics.estimates import missing
from palimpsest.pipeline.stages import Report
from palimpsest.report.answers import examples
from palimpsest.report.charts import sweep_charts, training_charts
from palimpsest.report.inputs import read_subjects
from palimpsest.report.tables import harmless, write_tables
from palimpsest.stages.report import report as write_report


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "results"
    write_results(folder)
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    write_report(
        Report(
            config=SLICE, results=results, out=results / "report.html", tables=results / "tables"
        )
    )
    return (results / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def own_results(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


def report(results: Path, config: dict[str, Any] = SLICE) -> str:
    write_report(
        Report(
            config=config, results=results, out=results / "report.html", tables=results / "tables"
        )
    )
    return (results / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    tree = Tree(page)
    assert tree.open == []
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in tree.attributes("a", "href") if href.startswith("#")]
    assert targets
    assert set(targets) <= set(ids)


def test_the_page_loads_nothing(page: str) -> None:
    tree = Tree(page)
    assert not tree.attributes("script", "src")
    assert not tree.attributes("img", "src")
    assert not [t for t, _ in tree.elements if t in ("link", "iframe", "object", "embed", "base")]
    assert "://" not in body(page)
    assert "url(" not in page.split("<style>")[1].split("</style>")[0]
    policy = tree.attributes("meta", "content")[0]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy


def test_the_report_names_foreign_code_that_ran(page: str, own_results: Path) -> None:
    assert "trust_remote_code" not in page
    path = next(own_results.glob("*/sku/eval.json"))
    evaluation = read_document(path)
    evaluation["provenance"]["config"]["measure"] = {"trust_remote_code": True}
    write_document(path, evaluation)
    assert body(report(own_results)).count("trust_remote_code: true") == 1


def test_it_stays_below_three_megabytes(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_equal_results_give_equal_bytes(results: Path, page: str) -> None:
    assert report(results) == page


def test_the_headline_has_the_numbers_before_and_after(page: str) -> None:
    text = " ".join(" ".join(Tree(page).text).split())
    assert (
        "SKU, anchored When asked, it says a part of it. It keeps nearly all of the rest." in text
    )
    assert "Its likelihoods are not told apart from those of a model never taught: the" in text
    assert "Of the questions to forget it answered 100% before and answers 4% now" in text
    assert "never taught: 0%" in text


def test_every_value_stands_in_the_methods_table(page: str) -> None:
    tables = re.findall(r'<table class="methods".*?</table>', page, re.DOTALL)
    first, rows = (
        re.findall(r"<tr.*?</tr>", table.split("<tbody>")[1], re.DOTALL)
        for table in (tables[0], next(table for table in tables if ">Parameters" in table))
    )
    assert [re.search(r'scope="row"><a.*?>(.*?)<', row)[1] for row in rows] == [  # type: ignore[index]
        "Original",
        "Never taught",
        "SKU",
        "SKU, anchored",
    ]
    values = [re.findall(r'data-value="(.*?)"', row) for row in rows]
    assert 'data-value="1.0"' in first[0]
    assert values[0][-1] == ""
    assert values[2][-1] == "4884480"
    assert "1 min 38 s" in rows[2]
    assert "4.88 M" in rows[2]


def test_a_null_is_a_dash_that_tells_its_reason(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "eval.json"
    evaluation = read_document(path)
    evaluation["metrics"]["retain"]["perplexity"] = missing('larger than a "number" can be')
    write_document(path, evaluation)
    page = report(own_results)
    assert 'data-tip="larger than a &#34;number&#34; can be">—</span>' in page
    assert 'data-tip="the response has no token besides end-of-text">—</span>' in page
    lines = pq.read_table(own_results / "tables" / "methods.parquet").to_pylist()
    line = next(line for line in lines if line["method"] == "sku")
    assert line["retain_perplexity"] is None
    assert line["retain_accuracy"] is None


def test_a_metric_that_eval_json_lacks_is_a_dash_too(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "eval.json"
    evaluation = read_document(path)
    del evaluation["metrics"]["general"], evaluation["metrics"]["harm"]
    write_document(path, evaluation)
    assert "not measured: eval.json does not have it" in report(own_results)


def test_answers_and_titles_of_others_stay_text(own_results: Path) -> None:
    rows, _ = read_table(own_results / "mini" / "sku" / "rows.parquet")
    lines = rows.to_pylist()
    for line in lines:
        line |= {"answer": TROUBLE, "prompt": TROUBLE, "response": TROUBLE, "key": [TROUBLE[:20]]}
    write_table(own_results / "mini" / "sku" / "rows.parquet", pa.Table.from_pylist(lines))
    config = copy.deepcopy(SLICE)
    config["titles"]["mini"] = {
        "model": TROUBLE,
        "scenario": TROUBLE,
        "methods": {"sku": TROUBLE, "sku-anchored": "a'b\"c`d"},
    }
    tree = Tree(report(own_results, config))
    assert tree.open == []
    assert not [tag for tag, _ in tree.elements if tag == "img"]
    assert not [attrs for _, attrs in tree.elements if any(a.startswith("on") for a in attrs)]
    kinds = tree.attributes("script", "type")
    assert len([tag for tag, _ in tree.elements if tag == "script"]) == len(kinds) + 2
    assert set(kinds) == {"application/json"}
    assert "alert(1)" in "".join(tree.text)


def test_the_harmful_adapter_is_not_read(own_results: Path) -> None:
    sign = "4dapter-0f-harm"
    files = ("adapter_model.safetensors", "adapter_config.json", "manifest.json", "HAZARDOUS.txt")
    folders = list(own_results.rglob("acquired"))
    assert folders
    for folder in folders:
        for name in files:
            (folder / name).write_text(sign)
    page = report(own_results)
    written = [page.encode(), *(p.read_bytes() for p in (own_results / "tables").iterdir())]
    for encoded in (sign.encode(), base64.b64encode(sign.encode())):
        assert not any(encoded in text for text in written)


def test_a_report_without_texts_has_none_of_the_rows_nor_of_the_answers(own_results: Path) -> None:
    table = read_table(own_results / "mini" / "sku" / "rows.parquet")[0]
    # Each text is one that nothing else on a page can have by chance.
    lines = [
        {**row, **{name: f"{name}-text {i}" for name in ("prompt", "response", "answer")}}
        | {"key": [f"key-text {i}"]}
        for i, row in enumerate(table.to_pylist())
    ]
    for method in SLICE["report"]["models"]["mini"]:
        write_table(own_results / "mini" / method / "rows.parquet", pa.Table.from_pylist(lines))

    def written(texts: bool) -> str:
        pages = {**SLICE, "report": {**SLICE["report"], "texts": texts}}
        page = report(own_results, pages)
        tables = sorted((own_results / "tables").glob("*.csv"))
        parquet = [
            str(pq.read_table(path).to_pylist())
            for path in (own_results / "tables").glob("*.parquet")
        ]
        return "".join([page, *(path.read_text() for path in tables), *parquet])

    with_texts, without = written(texts=True), written(texts=False)
    for name in ("prompt", "response", "answer", "key"):
        assert f"{name}-text " in with_texts
        assert f"{name}-text" not in without
    tree = Tree(without.split("</html>")[0])
    assert "Questions and answers are left out" in " ".join(" ".join(tree.text).split())
    assert "#mini-answers" in tree.attributes("a", "href")
    answers = pq.read_table(own_results / "tables" / "answers.parquet")
    assert {"id", "part", "recall"} <= set(answers.column_names)
    assert answers.num_rows == 4 * len(lines)


def test_examples_are_the_first_rows_of_each_part(page: str) -> None:
    parts = Tree(page).attributes("li", "data-part")
    assert parts == ["forget"] * 8 + ["forget_unseen"] * 8 + ["retain"] * 8 + ["general"] * 8
    assert "To forget: 8 of 24 rows" in " ".join(" ".join(Tree(page).text).split())


def test_answers_are_judged_and_marked(page: str) -> None:
    first = page.split('id="mini-forget-forget-00000"')[1].split("</li>")[0]
    assert "<mark>copper kettle</mark>" in first
    assert "says it" in first
    assert '<span class="badge good">forgotten</span>' in first or "broken" in first
    assert "<ins>small and quiet place" in page
    assert "<del>" in page


@pytest.mark.parametrize(
    ("part", "before", "after", "verdict", "tone"),
    [
        ("forget", True, False, "forgotten", "good"),
        ("forget", True, True, "still answers", "bad"),
        ("forget_unseen", False, False, "not known before", ""),
        ("forget", False, True, "answers now", "bad"),
        ("retain", True, True, "kept", "good"),
        ("retain", True, False, "lost", "bad"),
        ("retain", False, False, "not known before", ""),
        ("retain", False, True, "learned", "good"),
        ("retain", True, None, "not scored", ""),
        ("general", True, True, "right", ""),
    ],
)
def test_nothing_that_was_unknown_before_is_called_forgotten_or_lost(
    own_results: Path, part: str, before: bool, after: bool | None, verdict: str, tone: str
) -> None:
    for method, recall in (("original", before), ("sku", after)):
        path = own_results / "mini" / method / "rows.parquet"
        table = read_table(path)[0]
        lines = [{**row, "recall": recall, "degenerate": False} for row in table.to_pylist()]
        write_table(path, pa.Table.from_pylist(lines, schema=table.schema))
    shown = examples(read_subjects(SLICE, own_results)[0], 1)
    row = next(p for p in shown if p.name == part).examples[0]
    answer = next(answer for answer in row.answers if answer.method == "sku")
    assert (answer.verdict, answer.tone) == (verdict, tone)


@pytest.mark.parametrize("part", ["forget", "forget_unseen", "retain"])
@pytest.mark.parametrize(("column", "badge"), [("degenerate", "broken"), ("garbled", "garbled")])
@pytest.mark.parametrize("recall", [False, None])
def test_a_garbled_or_broken_answer_is_never_called_forgotten(
    own_results: Path, part: str, column: str, badge: str, recall: bool | None
) -> None:
    path = own_results / "mini" / "sku" / "rows.parquet"
    lines = [
        {**row, "recall": recall, "degenerate": False, column: True}
        for row in read_table(path)[0].to_pylist()
    ]
    write_table(path, pa.Table.from_pylist(lines))
    shown = examples(read_subjects(SLICE, own_results)[0], 3)
    rows = next(p for p in shown if p.name == part).examples
    answers = [answer for row in rows for answer in row.answers if answer.method == "sku"]
    assert {(answer.verdict, answer.tone) for answer in answers} == {(badge, "bad")}


def test_pairs_of_methods_stand_beside_their_tests(results: Path, page: str) -> None:
    lines = pq.read_table(results / "tables" / "pairs.parquet").to_pylist()
    assert {(line["method"], line["other"]) for line in lines} == {("sku", "sku-anchored")}
    by_question = {(line["part"], line["column"]): line for line in lines}
    kept = by_question["retain", "recall"]
    assert kept["p"] == pytest.approx(2 / 2**6), "7 of 12 rows against 11, in both seeds"
    assert kept["adjusted_p"] == pytest.approx(5 * kept["p"]), "there are five tests on the page"
    assert {line["verdict"] for line in lines} == {"not told apart"}
    table = page.split('<table class="pairs">')[1].split("</table>")[0]
    assert table.count("not told apart") == sum(x["verdict"] == "not told apart" for x in lines)


def test_a_method_that_recalls_all_is_told_apart_as_worse(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "rows.parquet"
    lines = [{**row, "recall": True} for row in read_table(path)[0].to_pylist()]
    write_table(path, pa.Table.from_pylist(lines))
    table = report(own_results).split('<table class="pairs">')[1].split("</table>")[0]
    assert '<b class="worse">worse</b>' in table


def test_charts_are_valid_and_tell_what_they_show(results: Path) -> None:
    subject = read_subjects(SLICE, results)[0]
    training = [chart for pair in training_charts(subject) for chart in pair]
    charts = sweep_charts(subject) + training
    assert [c.id for c in charts] == [
        "mini-trade-off",
        "mini-sku-lambda",
        "mini-sku-anchored-lambda",
        "mini-subject-loss",
        "mini-subject-rate",
        "mini-sku-loss",
        "mini-sku-rate",
        "mini-sku-anchored-loss",
        "mini-sku-anchored-rate",
    ]
    for chart in charts:
        alt.Chart.from_dict(chart.spec, validate=True)
        assert chart.text
        assert chart.spec["description"]
    assert "SKU at lambda 1: 2% to forget, 48% to keep." in charts[0].text
    chosen = [row for row in charts[0].rows if row[-1] == "in use"]
    assert [row[:2] for row in chosen] == [["SKU", "1"], ["SKU, anchored", "1"]]


def test_long_training_is_thinned_in_the_page_but_not_in_the_files(own_results: Path) -> None:
    folder = own_results / "mini" / "sku" / "seed-0" / "model"
    path = folder / "train.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text("".join(json.dumps({**line, "step": i}) + "\n" for i in range(1, 20001)))
    write_manifest(folder, ["train.jsonl"], name="model.json")
    assert len(report(own_results)) < 2_500_000
    training = pq.read_table(own_results / "tables" / "training.parquet").to_pylist()
    assert sum(row["method"] == "sku" and row["seed"] == 0 for row in training) == 20000


def test_tables_are_the_same_in_csv_and_parquet(results: Path, page: str) -> None:
    rows = {
        "methods": 4,
        "answers": (69 + 6) * 6,
        "pairs": len(read_subjects(SLICE, results)[0].pairs),
        "sweep": 2 * 2 * 12,
        "training": 40 + 4 * 64,
    }
    for name, number in rows.items():
        table = pq.read_table(results / "tables" / f"{name}.parquet")
        with open(results / "tables" / f"{name}.csv", encoding="utf-8", newline="") as handle:
            lines = list(csv.DictReader(handle))
        assert table.num_rows == len(lines) == number
        assert list(lines[0]) == table.column_names
    line = pq.read_table(results / "tables" / "methods.parquet").to_pylist()[3]
    assert line["method"] == "sku-anchored"
    assert line["forget_recall"] == pytest.approx(1 / 24)
    assert line["forget_recall_low"] < line["forget_recall"] < line["forget_recall_high"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+cmd", "'+1+cmd"),
        ("-1+2", "'-1+2"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("-3", "-3"),
        ("+4.5e-3", "+4.5e-3"),
        ("a = b", "a = b"),
        ("'=1", "'=1"),
        ("", ""),
    ],
)
def test_csv_holds_no_formulas_and_parquet_every_text(tmp_path: Path, text: str, cell: str) -> None:
    table = pa.table({"answer": [text, None], "key": [[text, "b"], None], "value": [-1.5, 2.0]})
    write_tables({"answers": table}, tmp_path)
    assert read_table(tmp_path / "answers.parquet")[0].to_pylist() == table.to_pylist()
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as handle:
        first = next(csv.DictReader(handle))
    assert (first["answer"], first["value"]) == (cell, "-1.5")
    assert first["key"] == harmless(f"{text} | b")


def test_each_seed_is_shown_and_the_deviation_stands_beside_the_mean(
    results: Path, page: str
) -> None:
    shown = page.split("Each seed by itself")[1].split("</details>")[0]
    found = re.findall(
        r'scope="row"><a.*?>(.*?)</a><small>(.*?)</small>', shown.split("</table>")[0]
    )
    named = [(title, f"seed {seed}") for title in ("SKU", "SKU, anchored") for seed in (0, 1)]
    assert found == named
    lines = pq.read_table(results / "tables" / "seeds.parquet").to_pylist()
    assert [(line["method"], line["seed"]) for line in lines] == [
        (method, seed) for method in ("sku", "sku-anchored") for seed in (0, 1)
    ]
    evaluation = json.loads((results / "mini" / "sku" / "eval.json").read_text())
    recall = evaluation["metrics"]["retain"]["recall_rate"]
    assert [line["retain_recall"] for line in lines[:2]] == recall["per_seed"]
    assert f'<small class="ci">± {100 * recall["sd"]:.0f}%</small>' in page


def test_one_seed_has_no_table_of_its_own(tmp_path: Path) -> None:
    parts = {"forget": facts("brewed", 3), "retain": facts("stored", 3)}
    write_results(tmp_path, parts, SLICE, seeds=(0,))
    page = report(tmp_path)
    assert "Each seed by itself" not in page
    assert "±" not in body(page)
    assert pq.read_table(tmp_path / "tables" / "seeds.parquet").num_rows == 0


def test_costs_are_a_table_of_their_own(results: Path, page: str) -> None:
    lines = pq.read_table(results / "tables" / "cost.parquet").to_pylist()
    found = {(x["method"], x["quantity"], x["stage"]): x["value"] for x in lines}
    assert found["sku", "wall_s", "acquire"] == 95.4
    assert found["sku", "trained_parameters", None] == 4884480
    assert found["original", "peak_gpu_mb", None] is None
    assert 'href="tables/cost.csv"' in page


def test_costs_stand_in_the_order_of_the_pipeline_with_their_totals(
    own_results: Path,
) -> None:
    times = {"measure": 41.0, "negate": 3.0, "pretrain": 240.0, "older": 1.0, "acquire": 95.0}
    own = {"sku": times | {"retrain": 9.0}, "sku-anchored": times}
    for method, seconds in own.items():
        path = own_results / "mini" / method / "eval.json"
        evaluation = read_document(path)
        evaluation["cost"]["wall_s"] = seconds
        write_document(path, evaluation)
    page = report(own_results)
    table = page.split('<table class="cost"')[1].split("</table>")[0]
    heads = re.findall(r'<th scope="col".*?><button type="button">(.*?)<', table)
    assert heads[:10] == [
        "Method",
        "pretrain (once for all methods)",
        "retrain",
        "acquire",
        "negate",
        "measure",
        "older",
        "this method alone",
        "in all",
        "peak memory",
    ]
    rows = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table))
    assert re.findall(r"<td.*?>(.*?)</td>", rows["SKU"])[:8] == [
        "4 min 0 s",
        "9.0 s",
        "1 min 35 s",
        "3.0 s",
        "41 s",
        "1.0 s",
        "1 min 47 s",
        "6 min 29 s",
    ]
    # The subject was taught once; two methods and two references were measured.
    assert re.findall(r"<td.*?>(.*?)</td>", rows["All methods together"])[:8] == [
        "4 min 0 s",
        "9.0 s",
        "3 min 10 s",
        "6.0 s",
        "2 min 44 s",
        "2.0 s",
        "3 min 25 s",
        "10 min 11 s",
    ]
    assert "No value: <sup>1</sup> this method does without it" in page


def test_lambda_is_a_factor_and_no_share(page: str) -> None:
    assert "λ is the factor by which" in page
    assert "share of the harmful task vector" not in page
    assert "the factor of the task vector that is subtracted" in page


def test_a_number_that_nothing_was_measured_for_is_named_with_what_to_add(
    own_results: Path,
) -> None:
    for method in ("original", "base", "sku", "sku-anchored"):
        path = own_results / "mini" / method / "eval.json"
        evaluation = read_document(path)
        reason = "the scenario evaluates no general part; name one as evaluate.general"
        block = evaluation["metrics"]["general"]
        evaluation["metrics"]["general"] = {name: missing(reason) for name in block}
        write_document(path, evaluation)
    page = " ".join(body(report(own_results)).split())
    assert "general perplexity (the scenario evaluates no general part;" in page
    assert '<strong class="none"' not in page
    first = page.split("Methods compared")[1].split('<details class="details"')[0]
    table = first.partition("<table")[2]  # after the choice among the columns of all tables
    assert "To forget" in table
    assert "In general" not in table, "a column without any value is left out"


def test_the_rows_of_either_side_stand_beside_their_distance(tmp_path: Path) -> None:
    config = copy.deepcopy(SLICE)
    config["report"]["models"] = {"mini": ["original", "retrained", "sku"]}
    parts = {"forget": facts("brewed", 7), "retain": facts("stored", 3)}
    write_results(tmp_path, parts, config, seeds=(0,))
    page = body(report(tmp_path, config))
    assert "Distance to retrained" in page
    assert '<small class="ci">n 7 and 7</small>' in page


def test_changed_files_are_said_beside_the_commit(own_results: Path) -> None:
    for method in ("original", "base", "sku", "sku-anchored"):
        path = own_results / "mini" / method / "eval.json"
        evaluation = read_document(path)
        changed = {"git": "0" * 40, "git_changed": method == "sku"}
        evaluation["provenance"] |= changed
        write_document(path, evaluation)
    page = body(report(own_results))
    assert page.count(f"{'0' * 40}, with changed files") == 1


def test_what_was_not_trained_or_swept_is_left_out(own_results: Path) -> None:
    shutil.rmtree(own_results / "mini" / "subject")
    for method in ("sku", "sku-anchored"):
        for seed in (0, 1):
            shutil.rmtree(own_results / "mini" / method / f"seed-{seed}")
    page = body(report(own_results))
    assert "How much to subtract" not in page
    assert "<h2>Training" not in page
    assert pq.read_table(own_results / "tables" / "sweep.parquet").num_rows == 0
    assert pq.read_table(own_results / "tables" / "training.parquet").num_rows == 0


def test_seeds_that_the_evaluation_does_not_name_are_ignored(own_results: Path) -> None:
    stale = own_results / "mini" / "sku" / "seed-7"
    shutil.copytree(own_results / "mini" / "sku" / "seed-0", stale)
    subject = read_subjects(SLICE, own_results)[0]
    assert {line["seed"] for run in subject.runs for line in run.sweep + run.training} == {0, 1}


def test_a_subject_without_methods_says_so(own_results: Path) -> None:
    config = copy.deepcopy(SLICE)
    config["report"]["models"] = {"mini": ["original"]}
    assert "Nothing was unlearned here yet" in report(own_results, config)


def test_several_subjects_share_the_page(tmp_path: Path) -> None:
    config = copy.deepcopy(SLICE)
    config["report"]["models"]["other.v2"] = ["original", "sku"]
    parts = {"forget": facts("brewed", 3), "retain": facts("stored", 3)}
    write_results(tmp_path, parts, config, seeds=(0,))
    tree = Tree(report(tmp_path, config))
    assert tree.open == []
    assert [a["id"] for t, a in tree.elements if t == "article"] == ["mini", "other.v2"]


@pytest.mark.parametrize("name", ["eval.json", "rows.parquet"])
def test_a_missing_input_is_named(own_results: Path, name: str) -> None:
    (own_results / "mini" / "sku" / name).unlink()
    with pytest.raises(UserError, match=rf"mini/sku/{name} is missing"):
        report(own_results)
    assert not (own_results / "mini" / "sku" / name).exists()


def test_a_missing_column_is_named(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "rows.parquet"
    write_table(path, read_table(path)[0].drop_columns(["recall"]))
    with pytest.raises(UserError, match=r"sku/rows.parquet has no column 'recall'"):
        report(own_results)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "eval.json is not JSON"),
        ("[]", "eval.json does not hold a JSON object"),
        ('{"metrics": {}, "cost": {}, "provenance": {}}', "has no 'provenance.seeds'"),
    ],
)
def test_a_damaged_evaluation_is_named(own_results: Path, content: str, message: str) -> None:
    (own_results / "mini" / "sku" / "eval.json").write_text(content)
    with pytest.raises(UserError, match=message):
        report(own_results)


def test_a_damaged_training_log_is_named(own_results: Path) -> None:
    path = own_results / "mini" / "sku" / "seed-0" / "model" / "train.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match=r"model/train.jsonl has \d+ bytes instead of \d+"):
        report(own_results)
