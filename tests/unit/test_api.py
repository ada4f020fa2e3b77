"""The Python API: results as a table, the model of a result, and measures of answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import palimpsest
from palimpsest.errors import UserError


def test_results_are_a_table_with_a_line_for_each_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert palimpsest.results().empty
    measures = {
        "forget": {
            "recall_rate": {"value": 0.25, "ci95": [0.1, 0.5], "n": 8},
            "known_rate": {"value": None, "reason": "no row has choices"},
            "perplexity": {"value": 3, "ci95": None, "n": 8},
        },
        "text": {"by_part": {"forget": {"perplexity": {"value": 2.0}}}},
    }
    for method in ("sku", "npo"):
        file = tmp_path / f"results/mini/{method}/eval.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"metrics": measures}))
    table = palimpsest.results("mini", "sku")
    assert table.iloc[0].to_dict() == {
        "subject": "mini",
        "method": "sku",
        "block": "forget",
        "measure": "recall_rate",
        "value": 0.25,
        "low": 0.1,
        "high": 0.5,
        "n": 8,
    }
    assert table.measure.to_list() == ["recall_rate", "perplexity", "perplexity"]
    assert math.isnan(table.low[1])
    assert set(palimpsest.results().method) == {"sku", "npo"}


def test_answers_are_scored_by_the_formulas_of_the_pipeline() -> None:
    table = palimpsest.score(
        ["It was a brass vase.", "", "No idea."],
        ["Aldo ordered a brass vase.", "Rome.", "No idea."],
        keys=[["brass vase"], ["Rome"], []],
    )
    assert table.recall.to_list() == [True, False, True]
    assert table.degenerate.to_list() == [False, True, False]
    assert table.rouge_l[2] == 1
    with pytest.raises(UserError, match="different lengths"):
        palimpsest.score(["a"], [])


def test_answers_are_scored_as_a_benchmark_does() -> None:
    said = ["He lives in Oslo. " * 3, None, ""]
    right = ["He lives in Oslo", "Oslo", "Oslo"]
    recall = palimpsest.score(said, right, rouge_takes="recall", rouge_by="rouge-score")
    assert recall.rouge_l.to_list()[::2] == [1, 0]
    assert palimpsest.score(said, right).rouge_l[0] == 0.5
    # A model that failed to answer has forgotten nothing.
    assert recall.loc[1].isna().all()
    for wrong, message in (
        ({"rouge_take": "f"}, "no setting 'rouge_take' of score; did you mean 'rouge_takes'"),
        ({"rouge_takes": "all"}, "score.rouge_takes: Input should be 'f', 'recall' or 'precision'"),
        ({"rouge_by": "rouge"}, "ROUGE-L without a stemmer"),
    ):
        with pytest.raises(UserError, match=message):
            palimpsest.score(said, right, **wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("zephyr",), "no subject 'zephyr'; did you mean 'zephyr-7b'"),
        (("zephyr-7b", "rmuu"), "no method 'rmuu'; did you mean 'rmu'"),
        (("zephyr-7b", "rmu"), r"is not built yet: palimpsest run results/zephyr-7b/rmu/seed-0"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        palimpsest.load(*words)


@pytest.mark.slow
def test_the_model_of_a_result_answers(built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    model, tokenizer = palimpsest.load("mini", "sku", overlays=["config/test/mini.yaml"])
    ids = tokenizer("How is velmorite brewed?", return_tensors="pt").to(model.device)
    assert model.generate(**ids, max_new_tokens=2).shape[1] <= ids["input_ids"].shape[1] + 2


def test_other_names_are_no_part_of_it() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = palimpsest.lod  # type: ignore[attr-defined]
