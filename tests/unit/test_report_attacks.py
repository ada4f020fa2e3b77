"""What the report says of attacks: the headline, the section, and a verdict without colours."""

from __future__ import annotations

import copy
import csv
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kit.attack_tables import ROWS, assessed, attack, plain, write
from kit.html_tree import Tree
from kit.reports import SLICE, write_results
from palimpsest.config.criteria import Criteria
from palimpsest.io.canonical import fingerprint
from palimpsest.io.sealed import read_document, write_document
from palimpsest.pipeline.stages import Report
from palimpsest.report.criteria import source_of
from palimpsest.report.inputs import read_subjects
from palimpsest.report.recovery import recovery
from palimpsest.stages.report import report

ATTACKED: dict[str, Any] = {
    **SLICE,
    "report": {
        "models": {"mini": ["original", "base", "retrained", "sku", "sku-anchored"]},
        "examples": 8,
    },
    "attacked": ["mini"],
}
HALF = "1" * 14 + "0" * 10
RELEARN = {
    "sku": {"rate 0.001, step 12": "1" * 6 + "0" * 18, "rate 0.001, step 48": HALF},
    "original": {"rate 0.001, step 12": "1" * ROWS, "rate 0.001, step 48": "1" * ROWS},
    "retrained": {"rate 0.001, step 12": "0" * ROWS, "rate 0.001, step 48": "0" * ROWS},
}
FACTS = {name: {"rate": 0.001, "step": int(name.split()[-1])} for name in RELEARN["sku"]}
CHOICE = {run: {"": "1" * ROWS} for run in ("sku", "original")} | {
    "retrained": {"": "1" * 6 + "0" * 18}
}


def verdict(method: str, outcome: str) -> dict[str, Any]:
    """A verdict with one condition."""
    condition = {
        "measure": "robust.recoverable",
        "says": "at most 0.2",
        "value": 0.58,
        "ci95": [0.3, 0.8],
        "outcome": outcome,
        "rows_needed": 35 if outcome == "undecided" else None,
        "reason": None,
    }
    return {
        "method": method,
        "criteria": "audit",
        "criteria_hash": "ab" * 32,
        "outcome": outcome,
        "says": f"{outcome}, at level training",
        "conditions": [condition],
        "usable": True,
        "unusable": None,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "results"
    write_results(folder, config=ATTACKED, seeds=(0,))
    attacks = tmp_path_factory.mktemp("attacks")
    write(attacks, ask=plain(), choice=CHOICE)
    for run, values in RELEARN.items():
        attack(attacks / run / "seed-0", "relearn", values, FACTS)
    outcomes = {"sku": "fail", "sku-anchored": "undecided", "original": "fail", "retrained": "pass"}
    for method, outcome in outcomes.items():
        of = {"sku-anchored": "retrained"}.get(method, method)
        write_document(folder / "mini" / method / "robust.json", assessed(attacks, of))
        write_document(folder / "mini" / method / "verdict.json", verdict(method, outcome))
    return folder


def page(results: Path, config: dict[str, Any] = ATTACKED) -> str:
    out = results / "report.html"
    report(Report(config=config, results=results, out=out, tables=results / "tables"))
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(results: Path) -> str:
    return page(results)


def text(html: str) -> str:
    """The words of a page."""
    html = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_first_line_says_what_comes_back(html: str) -> None:
    headline = re.search(r'<h2 class="verdict">(?:(?!</h2>).)*Under attack.*?</h2>', html, re.S)
    assert headline
    said = text(headline[0])
    assert said.index("When asked") < said.index("Under attack")
    assert re.search(r"Under attack \d+% of it comes back \(the worst of 2 attacks, \w+", said)


def test_where_nothing_comes_back_the_page_does_not_say_removed(html: str) -> None:
    said = text(html)
    assert "it is not told apart from a model that never learned it; up to" in said
    assert "removed" not in said
    assert "is safe" not in said


def test_a_figure_stands_beside_the_others(html: str) -> None:
    assert "Recoverable" in text(html)
    assert "0% is as if it was never taught" in text(html)


def test_without_attacks_the_headline_says_so(results: Path) -> None:
    said = text(page(results, {**ATTACKED, "attacked": []}))
    assert "No attack was run, so whether it can be recovered is not known." in said
    assert "Could it be recovered?" not in said


def test_the_table_has_attacks_references_and_what_is_weak(results: Path, html: str) -> None:
    subject = read_subjects(ATTACKED, results)[0]
    section = recovery(subject)
    assert section is not None
    assert [line.name for line in section.lines] == ["no attack", "choice", "relearn"]
    assert section.references == ["Original", "Retrained"]
    relearn = section.lines[2]
    assert [entry.text for entry in relearn.entries][2:] == ["100%", "0%"]
    assert "rate 58%" in relearn.entries[0].note
    assert "training, recall" in relearn.about


def test_curves_begin_before_the_attack(results: Path) -> None:
    section = recovery(read_subjects(ATTACKED, results)[0])
    assert section is not None
    (curves,) = section.curves
    sku = [row for row in curves.rows if row[0] == "SKU"]
    assert sku == [["SKU", "0", "0%"], ["SKU", "12", "25%"], ["SKU", "48", "58%"]]
    assert {row[0] for row in curves.rows} == {"SKU", "SKU, anchored", "Original", "Retrained"}


def test_layers_have_a_curve_for_each_output_layer(results: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(results, tmp_path / "results"))
    for method in ("sku", "sku-anchored"):
        path = own / "mini" / method / "robust.json"
        found = read_document(path)
        settings = {
            f"{head} {layer}": {
                "facts": {"head": head, "layer": layer},
                "method": {"rate": layer / 4},
                "original": {"rate": 1.0},
                "control": {"rate": 0.0},
            }
            for head in ("own", "base")
            for layer in (2, 4)
        }
        found["attacks"]["lens"] = {
            **found["attacks"]["choice"],
            "kind": "lens",
            "settings": settings,
        }
        write_document(path, found)
    section = recovery(read_subjects(ATTACKED, own)[0])
    assert section is not None
    titles = [chart.title for chart in section.curves]
    assert titles == ["Relearning: relearn", "Lens, own output layer", "Lens, base output layer"]
    assert ["SKU", "4", "100%"] in section.curves[1].rows


def test_a_weak_attack_is_marked_with_its_reason(results: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(results, tmp_path / "results"))
    attacks = tmp_path / "attacks"
    write(attacks, ask=plain(), choice={run: {"": "0" * ROWS} for run in CHOICE})
    for method in ("sku", "sku-anchored"):
        write_document(own / "mini" / method / "robust.json", assessed(attacks))
    html = page(own)
    assert 'class="weak"' in html
    assert "weak here: little to recover in the unit choice" in text(html)
    assert "is not known: no attack was run that finds anything here" in text(html)


def test_damage_and_power_stand_beside_each_attack(results: Path, html: str) -> None:
    section = recovery(read_subjects(ATTACKED, results)[0])
    assert section is not None
    choice = section.lines[1]
    assert choice.about == "decoding, choice; power 100%"
    assert [entry.damage for entry in choice.entries] == ["keeps 50%, broken 0%"] * 4
    assert "keeps 50%" in text(html)


def test_a_search_that_ended_at_its_edge_says_so(html: str) -> None:
    assert "its best learning rate is the smallest or largest tried" in text(html)


def test_equal_models_are_named(results: Path, html: str) -> None:
    """`sku-anchored` has the results of `retrained` here."""
    section = recovery(read_subjects(ATTACKED, results)[0])
    assert section is not None
    (notice,) = section.notices
    assert notice.startswith("Retrained and SKU, anchored are the same model: their files are")
    assert notice in text(html)


def test_methods_that_were_attacked_otherwise_are_no_comparison(
    results: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(results, tmp_path / "results"))
    path = own / "mini" / "sku" / "robust.json"
    write_document(path, read_document(path) | {"slices": "0" * 64})
    section = recovery(read_subjects(ATTACKED, own)[0])
    assert section is not None
    assert section.notices[1] == (
        "Not attacked with the same settings, so these groups cannot be compared: "
        "SKU; SKU, anchored."
    )


CLOZE = {
    "sku": {"cloze": "1" * 18 + "0" * 6, "words-1": "0" * ROWS},
    "original": {"cloze": "1" * ROWS, "words-1": "1" * ROWS},
    "retrained": {"cloze": "0" * ROWS, "words-1": "0" * ROWS},
}
BESIDE = [
    {"path": "sku/seed-0/acquired", "holds": "the acquired knowledge", "private": False},
    {"path": "subject", "holds": "the model before unlearning", "private": True},
]


def test_a_blank_against_the_question_and_what_lies_beside(results: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(results, tmp_path / "results"))
    attacks = tmp_path / "attacks"
    write(attacks, ask=plain(), prefill=CLOZE)
    for run in CLOZE:
        facts = {"beside": {"folders": BESIDE}}
        attack(attacks / run / "seed-0", "files", {"first": CLOZE[run]["cloze"]}, facts)
    for method in ("sku", "sku-anchored"):
        write_document(own / "mini" / method / "robust.json", assessed(attacks))
    section = recovery(read_subjects(ATTACKED, own)[0])
    assert section is not None
    assert [line.name for line in section.lines] == [
        "no attack",
        "prefill",
        "cloze − asked",
        "files",
    ]
    assert [entry.text for entry in section.lines[2].entries] == ["+75 pp"] * 2 + ["0 pp"] * 2
    said = text(page(own))
    for words in (
        "What lies beside the models",
        "sku/seed-0/acquired the acquired knowledge everybody on this machine",
        "subject the model before unlearning its owner alone",
    ):
        assert words in said


def test_criteria_have_their_hash_and_the_date_of_their_commit(tmp_path: Path, html: str) -> None:
    assert "Criteria abababababab: not those that config/criteria.yaml has now." in text(html)
    conditions = [{"measure": "robust.recoverable", "at_most": "2e-1"}]
    of_verdict = {
        "criteria": "audit",
        "criteria_hash": fingerprint(Criteria(conditions=conditions).model_dump()),
    }
    file = tmp_path / "criteria.yaml"
    file.write_text(
        "criteria: {audit: {conditions: [{measure: robust.recoverable, at_most: 0.2}]}}"
    )

    def git(*words: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        dated = {"GIT_COMMITTER_DATE": "2026-03-01T12:00:00", **os.environ}
        subprocess.run(["git", *named, *words], cwd=tmp_path, env=dated, check=True)

    git("init", "--quiet")
    assert source_of(of_verdict, file).endswith(
        "config/criteria.yaml, which is in no commit as it is."
    )
    git("add", ".")
    git("commit", "--quiet", "-m", "Limits")
    assert source_of(of_verdict, file).endswith("last changed in a commit of 2026-03-01.")
    file.write_text(file.read_text() + "\n# later\n")
    assert source_of(of_verdict, file).endswith("which is in no commit as it is.")
    assert "not those" in source_of(of_verdict | {"criteria": "other"}, file)


def test_verdicts_are_readable_without_colour(html: str) -> None:
    said = text(html)
    for words in (
        "fail, at level training",
        "✕ failed",
        "○ undecided",
        "● passed",
        "35 rows needed",
    ):
        assert words in said
    assert "robust.recoverable: at most 0.2" in said


def test_three_recovered_answers_are_shown_and_none_without_texts(results: Path, html: str) -> None:
    assert html.count('<p class="label">Under attack</p>') >= 3
    quiet = copy.deepcopy(ATTACKED)
    quiet["report"]["texts"] = False
    assert "Recovered answers" not in page(results, quiet)


def test_the_table_is_a_file_too(results: Path, html: str) -> None:
    with (results / "tables" / "attacks.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    relearn = next(x for x in lines if (x["method"], x["attack"]) == ("sku", "relearn"))
    assert float(relearn["rate"]) == pytest.approx(14 / 24)
    assert float(relearn["rate_control"]) == 0
    assert relearn["weak"] in ("true", "false")
    assert relearn["rate_at_edge"] == "true"
    assert float(relearn["retain"]) == float(relearn["retain_original"]) == 0.5
    assert float(relearn["no_text"]) == 0
    assert relearn["slice"] == "relearn"


def test_the_page_is_well_formed(html: str) -> None:
    tree = Tree(html)
    assert tree.open == []
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in tree.attributes("a", "href") if href.startswith("#")]
    assert "mini-recovery" in targets
    assert set(targets) <= set(ids)
