"""`palimpsest show`: numbers and verdict of results that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palimpsest.commands import show
from palimpsest.errors import UserError

MINI = "results/mini"


def metrics(recall: float | None, kept: float) -> dict[str, object]:
    return {
        "forget": {"recall_rate": {"value": recall}, "forgotten_rate": {"value": 0.5}},
        "retain": {"recall_rate": {"value": kept}},
        "privacy": {},
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for method, recall, kept in (("sku", 0.1, 0.9), ("original", 1, 1), ("npo", None, 0.5)):
        folder = tmp_path / MINI / method
        folder.mkdir(parents=True)
        (folder / "eval.json").write_text(json.dumps({"metrics": metrics(recall, kept)}))
    return tmp_path


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("mini", ["original", "npo", "sku"]),
        ("results/mini", ["original", "npo", "sku"]),
        ("mini/sku", ["original", "sku"]),
        ("results/mini/sku/eval.json", ["original", "sku"]),
        ("./results/mini/original/eval.json", ["original"]),
    ],
)
def test_a_target_is_a_subject_a_method_or_a_file(
    results: Path, target: str, methods: list[str]
) -> None:
    assert show._results(target) == ("mini", methods)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mni", "no result of such a subject is here; did you mean 'mini'"),
        ("mini/sk", "no result of 'sk' is here; did you mean 'sku'"),
        ("results", "no result of such a subject"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(results: Path, target: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        show._results(target)


def test_the_table_has_the_measures_that_somebody_has(results: Path) -> None:
    lines = list(show._table("mini", ["original", "npo", "sku"]))
    assert [line.split() for line in lines[:4]] == [
        ["mini", "recalled", "forgotten", "kept"],
        ["original", "100", "%", "50", "%", "100", "%"],
        ["npo", "-", "50", "%", "50", "%"],
        ["sku", "10", "%", "50", "%", "90", "%"],
    ]
    assert list(show._headlines("mini", ["original", "sku"])) == [
        "sku: for what this says, type: palimpsest run results/mini/sku/compare.json"
    ]


@pytest.mark.slow
def test_what_the_report_says_is_shown(built) -> None:
    done = built.run("palimpsest", "show", "mini/sku")
    assert done.returncode == 0, done.stderr
    assert "\nsku:\n  " in done.stdout
    assert "No attack was run" in done.stdout
    assert "sku-anchored" not in done.stdout
