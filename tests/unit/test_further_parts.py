"""Further evaluated parts, blocks that are asked in their own way, members of whole texts."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest

from kit.config_example import put, raw_config
from kit.scored import Workspace, answer_line, lines
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.metrics.measures.answers import expected_largest
from palimpsest.metrics.schema import eval_schema
from palimpsest.pipeline.results import datasets_of, slice_of
from palimpsest.report.columns import columns_of
from palimpsest.report.inputs import Run

EVALUATE = "scenarios.bare.evaluate"
MORE = {"part": "general/all", "of": "general"}


def test_a_further_part_is_measured_read_and_checked_like_the_block_it_is_of() -> None:
    cfg = load_config(put(raw_config(), f"{EVALUATE}.further", {"facts": MORE}))
    assert cfg.scenarios["bare"].evaluate.parts()["general/facts"] == "general/all"
    assert "general" in datasets_of("measure", cfg, "second")
    measured = json.loads(slice_of("measure", cfg, model="second", run="sku/seed-0"))
    assert measured["parts"]["general/facts"] == "general/all"
    assert "asked" not in measured, "what is not set changes no slice"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("further", {"x": MORE | {"part": "general/none"}}, "further.x: no part 'general/none'"),
        ("further", {"x": MORE | {"of": "forgot"}}, "further.x.of"),
        ("further", {"x": {"part": "secrets/all", "of": "retain"}}, "which is to be forgotten"),
        ("asked", {"forgett": {"max_new_tokens": 3}}, "no block 'forgett'.*'forget'"),
        ("asked", {"forget": {"stop": [""]}}, "stop"),
        ("asked", {"forget": {"examples": "general/none"}}, "asked: no part 'general/none'"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_place(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(put(raw_config(), f"{EVALUATE}.{key}", value))


def test_examples_are_read_and_count() -> None:
    asked = {"forget": {"examples": "general/all", "stop": ["\n\n"]}}
    cfg = load_config(put(raw_config(), f"{EVALUATE}.asked", asked))
    assert "general" in datasets_of("measure", cfg, "second")
    measured = json.loads(slice_of("measure", cfg, model="second", run="sku/seed-0"))
    assert measured["asked"]["forget"]["examples"] == "general/all"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def add(workspace: Workspace, block: str, probabilities: dict[str, float], wrong: float) -> None:
    """A part of one-token responses, each with one wrong answer."""
    name = block.replace("/", "-")
    ids = [f"{name}-{i}" for i in range(len(probabilities))]
    texts = list(probabilities)
    columns: dict[str, Any] = {"id": ids, "prompt": ids, "response": texts}
    columns |= {"key": [[text] for text in texts], "perturbed": [["no"] for _ in ids]}
    folder = workspace.datasets / name
    write_table(folder / "all.parquet", pa.table(columns))
    write_manifest(folder, ["all.parquet"], source="x")
    workspace.config["parts"] |= {block: f"{name}/all"}
    rows = list(zip(ids, texts, probabilities.values(), strict=True))
    more = [line for i, _, p in rows for line in lines(block, i, "1", p)]
    more += [line for i, _, _ in rows for line in lines(block, i, "0", wrong, 0)]
    if block in ("holdout", "members"):
        more = [line for line in more if line["alternative"] < 0]
    else:
        answers = [answer_line(block, i, text) for i, text, _ in rows]
        workspace.edit(
            "generations.parquet", lambda t: pa.Table.from_pylist(t.to_pylist() + answers)
        )
    workspace.edit("likelihood.parquet", lambda t: pa.Table.from_pylist(t.to_pylist() + more))


def test_utility_is_of_nine_with_a_second_general_part(workspace: Workspace) -> None:
    add(workspace, "general", {"yes": 0.5}, wrong=0.25)
    add(workspace, "general/facts", {"so": 0.5, "thus": 0.25}, wrong=0.125)
    found = workspace.score()
    jsonschema.validate(found, eval_schema())
    further = found["metrics"]["further"]["general/facts"]
    assert further["probability"]["value"] == pytest.approx(0.375)
    assert further["truth_ratio"]["value"] == pytest.approx((0.75 + 0.5) / 2)
    retain = found["metrics"]["retain"]
    nine = [0.5, retain["rouge_l"]["value"], retain["truth_ratio"]["value"]]
    nine += [0.5 / 0.75, 1.0, 0.5]
    nine += [(0.5 / 0.625 + 0.25 / 0.375) / 2, 1.0, 0.625]
    utility = found["metrics"]["utility"]["model_utility"]
    assert utility["value"] == pytest.approx(9 / sum(1 / x for x in nine))
    parts = {row["part"] for row in workspace.rows()}
    assert "general/facts" in parts


def test_members_stand_in_place_of_forget_in_membership_inference(workspace: Workspace) -> None:
    base = {"base_likelihood": workspace.seed(0) / "likelihood.parquet"}
    add(workspace, "holdout", {"a": 0.25, "b": 0.125}, wrong=0.5)
    assert workspace.score(**base)["metrics"]["privacy"]["mia_loss"]["value"] == 1
    add(workspace, "members", {"c": 0.125, "d": 0.0625}, wrong=0.5)
    found = workspace.score(**base)["metrics"]["privacy"]["mia_loss"]
    assert found["value"] == pytest.approx(0.125)
    assert found["n"] == 4


def test_the_end_token_counts_on_request_in_likelihoods_alone(workspace: Workspace) -> None:
    """Of two words at 1/2 and an end at 1/2 nothing changes; at 1 the mean does."""

    def certain(line: dict[str, Any]) -> dict[str, Any]:
        return line | {"logprob": 0.0} if line["eos"] else line

    workspace.edit(
        "likelihood.parquet", lambda t: pa.Table.from_pylist([certain(x) for x in t.to_pylist()])
    )
    without = workspace.score("without")["metrics"]["retain"]
    workspace.config["score"]["count_eos"] = True
    found = workspace.score("with")["metrics"]["retain"]
    # Rows of two and four words; the end is one more token.
    expected = (math.exp(2 / 3 * math.log(0.5)) + math.exp(4 / 5 * math.log(0.5))) / 2
    assert without["probability"]["value"] == pytest.approx(0.5)
    assert found["probability"]["value"] == pytest.approx(expected)
    for name in ("accuracy", "exact_memorization", "extraction_strength"):
        assert found[name] == without[name]


@pytest.mark.parametrize("takes", ["recall", "precision"])
def test_rouge_takes_what_the_configuration_says(workspace: Workspace, takes: str) -> None:
    """The answer "With two blue stones." to "With two red stones" has 3 of 4 words either way."""
    workspace.config["score"]["rouge_takes"] = takes
    workspace.config["score"]["rouge_stemmer"] = False
    found = {row["id"]: row["rouge_l"] for row in workspace.score() and workspace.rows()}
    # "It is the SKIN" against "The skin.": all of its words, two of four of the answer's.
    assert found["q-1"] == (1.0 if takes == "recall" else 0.5)


def test_a_package_without_a_stemmer_takes_none() -> None:
    with pytest.raises(UserError, match="rouge_stemmer: false"):
        load_config(put(raw_config(), "score", {"rouge_by": "rouge"}))


def test_combined_scores_name_measures_and_one_another(workspace: Workspace) -> None:
    add(workspace, "retain/more", {"yes": 0.5, "no": 0.25}, wrong=0.125)
    workspace.config["score"]["composite"] = {
        "task": {
            "mean": "harmonic",
            "floor": 0,
            "of": [
                {"measure": "forget.probability", "takes": "complement"},
                {"measure": "retain/more.probability", "takes": "value"},
            ],
        },
        "final": {
            "mean": "arithmetic",
            "floor": 0,
            "of": [
                {"measure": "composite.task", "takes": "value"},
                {"measure": "retain/more.probability", "takes": "balance"},
            ],
        },
        "lacking": {
            "mean": "arithmetic",
            "floor": 0,
            "of": [{"measure": "lm_eval.mmlu.acc", "takes": "value"}],
        },
    }
    found = workspace.score()
    jsonschema.validate(found, eval_schema())
    scores = found["metrics"]["composite"]
    task = 2 / (1 / 0.5 + 1 / 0.375)
    assert scores["task"]["value"] == pytest.approx(task)
    assert scores["final"]["value"] == pytest.approx((task + 0.75) / 2)
    assert scores["lacking"]["value"] is None
    assert scores["lacking"]["reason"].startswith("lm_eval.mmlu.acc: ")


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_largest_of_k_answers_is_expected_over_all_choices(k: int) -> None:
    draws = np.array([[0.1, 0.9], [0.4, 0.2], [0.4, 0.0], [0.3, 0.5]])
    choices = [draws[list(chosen)].max(axis=0) for chosen in combinations(range(4), k)]
    assert expected_largest(draws, k) == pytest.approx(np.mean(choices, axis=0))


def test_the_most_telling_of_several_sampled_answers_counts(workspace: Workspace) -> None:
    workspace.config["sampled"] = [0, 1]
    said = {"forget:sampled-0": "With", "forget:sampled-1": "With two red stones."}
    lines_ = [answer_line(b, name, text) for b, text in said.items() for name in ("h-1-t", "h-2-t")]
    workspace.edit("generations.parquet", lambda t: pa.Table.from_pylist(t.to_pylist() + lines_))
    one = workspace.score("one")["metrics"]["forget_sampled"]["rouge_at_k"]["value"]
    workspace.config["score"]["leak_at"] = 2
    two = workspace.score("two")["metrics"]["forget_sampled"]["rouge_at_k"]["value"]
    assert (one, two) == (pytest.approx((0.4 + 1) / 4), pytest.approx(0.5))
    workspace.config["score"]["leak_at"] = 3
    none = workspace.score("none")["metrics"]["forget_sampled"]["rouge_at_k"]
    assert none["reason"] == "score.leak_at is 3, and measure.sampling has 2 seeds"


def test_the_report_has_columns_of_further_parts_and_combined_scores(workspace: Workspace) -> None:
    add(workspace, "forget/more", {"yes": 0.5}, wrong=0.25)
    term = {"measure": "forget/more.rouge_l", "takes": "complement"}
    score = {"mean": "arithmetic", "floor": 0, "of": [term]}
    workspace.config["score"]["composite"] = {"final": score}
    run = Run("sku", "SKU", workspace.score(), [], [], [], None, [], {})
    shown = {column.key: column.measure(run)["value"] for column in columns_of([run])}
    assert shown["forget_more_rouge_l"] == 1
    assert shown["composite_final"] == 0
    better = {column.key: column.better for column in columns_of([run])}
    assert better["forget_more_recall_rate"] == "low"
