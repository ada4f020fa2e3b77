"""Published figures beside ours: each row is one of a preset, and what lies outside is marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.copies import REPO
from palimpsest.config import read_config
from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.pipeline.targets import unsuited
from palimpsest.report.published import (
    Benchmark,
    Quantity,
    benchmarks,
    lines,
    page,
    pairs,
    read_benchmark,
    settings,
)

PRESETS = {
    "tofu": ["tofu"],
    "muse": ["muse-news", "muse-books"],
    "wmdp": ["wmdp"],
    "rwku": ["rwku"],
}
TABLE = {
    "source": "a paper, table 1",
    "differs": "the seed",
    "measures": {
        "p": {"ours": "compare.forget_quality.p", "factor": 10},
        "knows": {"ours": "forget.rouge_l", "times": 100, "within": 5},
        "verbatim": {"ours": "further.forget/verbatim.rouge_l", "within": 0.1},
    },
    "rows": {
        "mine/original": [0.5, 60, 0.5],
        "mine/npo": [1e-9, 10, None],
        "mine/simnpo": [0.5, 1, 1],
    },
}


def estimate(value: float | None, reason: str | None = None) -> dict[str, Any]:
    return {"value": value, "ci95": None, "n": 9, "reason": reason, "sd": None}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    for method, p, rouge in (("original", 0.06, 0.55), ("npo", 0.9, 0.16)):
        folder = tmp_path / "mine" / method
        folder.mkdir(parents=True)
        verbatim = estimate(0.45) if method == "original" else estimate(None, "no row")
        further = {"forget/verbatim": {"rouge_l": verbatim}}
        metrics = {"forget": {"rouge_l": estimate(rouge)}, "further": further}
        write_document(folder / "eval.json", {"metrics": metrics})
        write_document(folder / "compare.json", {"forget_quality": {"p": p, "reason": None}})
    return tmp_path


def test_each_value_is_held_against_ours_within_the_tolerance(measured: Path) -> None:
    benchmark = Benchmark(title="Mine", tables=[TABLE])
    rows = dict(pairs(benchmark.tables[0], measured))
    agree = {name: [pair.agrees for pair in row] for name, row in rows.items()}
    assert agree == {
        "mine/original": [True, True, True],
        "mine/npo": [False, False, None],
        "mine/simnpo": [None, None, None],
    }
    assert rows["mine/original"][1].ours == pytest.approx(55)
    assert [pair.why for pair in rows["mine/npo"]] == ["", "", "no row"]
    assert {pair.why for pair in rows["mine/simnpo"]} == {"not measured here"}
    assert list(lines(benchmark, measured)) == [
        "a paper, table 1: 5 of 9 values measured here",
        "  3 within the tolerance, 2 outside",
    ]
    html = page(benchmark, measured)
    assert html.count("✓ within") == 3
    assert html.count("✗ outside") == 2
    assert "not measured here" in html
    assert "What differs: the seed" in html


@pytest.mark.parametrize("theirs", [1e-30, 0.0])
def test_p_values_are_compared_by_their_ratio(theirs: float) -> None:
    quantity = Quantity(ours="compare.forget_quality.p", factor=10)
    assert quantity.agrees(theirs, theirs * 9.9)
    assert not quantity.agrees(theirs, 1e-3)


@pytest.mark.parametrize("name", benchmarks())
def test_each_published_row_is_one_of_a_preset(name: str) -> None:
    cfg = read_config(
        REPO / "config",
        overlays=[REPO / f"config/benchmarks/{preset}.yaml" for preset in PRESETS[name]],
    )
    for table in read_benchmark(name).tables:
        assert table.rows
        for row in table.rows:
            subject, method = row.split("/")
            assert subject in cfg.models, row
            assert method in cfg.method_names(), row
            assert unsuited(cfg, subject, method) is None, row


def test_a_name_without_figures_and_a_row_of_another_width_are_named() -> None:
    with pytest.raises(UserError, match="no published figures of 'tfu'; did you mean 'tofu'"):
        read_benchmark("tfu")
    with pytest.raises(ValueError, match="mine/npo has 1 values of 3"):
        Benchmark(title="Mine", tables=[{**TABLE, "rows": {"mine/npo": [1]}}])


def test_settings_that_change_a_value_are_named_once(tmp_path: Path) -> None:
    score = {"truth_ratio": "geometric", "rouge_takes": "recall", "bootstrap": 1000}
    for method, config in (
        ("original", {"score": {"score": score}}),
        ("npo", {"score": {"score": score}}),
        ("simnpo", {}),
    ):
        folder = tmp_path / "mine" / method
        folder.mkdir(parents=True)
        write_document(folder / "eval.json", {"metrics": {}, "provenance": {"config": config}})
    benchmark = Benchmark(title="Mine", tables=[TABLE])
    said = "truth_ratio: geometric, rouge_takes: recall"
    assert settings(benchmark.tables[0], tmp_path) == [said]
    assert page(benchmark, tmp_path).count(f"Ours was scored with {said}.") == 1
