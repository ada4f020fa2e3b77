"""Truth ratio, membership inference, utility, text quality and further answers in eval.json."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from kit.scored import Workspace, answer_line, lines
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics.asked import PARAPHRASE
from palimpsest.metrics.measures.privacy import Rows, auc, zlib_logprob
from palimpsest.metrics.measures.text import distinct, ngram_entropy
from palimpsest.metrics.measures.truth_ratio import (
    choice_probability,
    forget_score,
    retain_score,
    truth_ratio,
)
from palimpsest.metrics.parts import Part, independent, read_part

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "workflow/schemas/eval.schema.json").read_text(encoding="utf-8"))
SETTINGS = {"confidence": 0.95, "bootstrap": 500}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def add_part(workspace: Workspace, block: str, names: list[str], **wrong: float) -> None:
    """Another part of two-token responses, answered by themselves."""
    dataset = block.replace("/", "-")
    folder = workspace.datasets / dataset
    columns: dict[str, Any] = {name: names for name in ("id", "prompt", "response")}
    columns["key"] = [[name] for name in names]
    columns["perturbed"] = pa.array(
        [["no"] if name in wrong else [] for name in names], pa.list_(pa.string())
    )
    write_table(folder / "all.parquet", pa.table(columns))
    write_manifest(folder, ["all.parquet"], source="x")
    workspace.config["parts"] |= {block: f"{dataset}/all"}
    add_lines(workspace, [line for name in names for line in lines(block, name, "11")])
    add_lines(workspace, [x for n, p in wrong.items() for x in lines(block, n, "0", p, 0)])
    if block != "holdout":
        add_answers(workspace, [answer_line(block, name, name) for name in names])


def add_lines(workspace: Workspace, more: list[dict[str, Any]]) -> None:
    workspace.edit("likelihood.parquet", lambda t: pa.Table.from_pylist(t.to_pylist() + more))


def set_probability(workspace: Workspace, probability: float, **where: Any) -> None:
    """Give the tokens of those lines another probability."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        chosen = all(line[name] == value for name, value in where.items())
        return line | {"logprob": math.log(probability)} if chosen else line

    workspace.edit(
        "likelihood.parquet", lambda t: pa.Table.from_pylist([change(x) for x in t.to_pylist()])
    )


def add_answers(workspace: Workspace, more: list[dict[str, Any]]) -> None:
    workspace.edit("generations.parquet", lambda t: pa.Table.from_pylist(t.to_pylist() + more))


def valid(workspace: Workspace) -> dict[str, Any]:
    result = workspace.score()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(workspace.text()))
    metrics: dict[str, Any] = result["metrics"]
    return metrics


def test_the_rows_of_all_requests_are_one_block(workspace: Workspace) -> None:
    """MUSE's sustainability: after request k the sets 1 to k are measured together."""
    add_part(workspace, "forget/first", ["a", "b", "c"])
    assert "forget/all_requests" not in valid(workspace)["further"]
    workspace.config["requests"] = ["forget/first"]
    metrics = valid(workspace)
    united, blocks = metrics["further"]["forget/all_requests"], [metrics["forget"]]
    blocks.append(metrics["further"]["forget/first"])
    assert united.keys() == metrics["forget"].keys()
    for name in ("recall_rate", "rouge_l", "probability", "degenerate_rate"):
        ns = [block[name]["n"] for block in blocks]
        total = sum(block[name]["value"] * n for block, n in zip(blocks, ns, strict=True))
        assert united[name]["n"] == sum(ns) == 5
        assert united[name]["value"] == pytest.approx(total / sum(ns))
    sums = [math.log(block["perplexity"]["value"]) for block in (*blocks, united)]
    assert min(sums[:2]) <= sums[2] <= max(sums[:2])


# Wrong answers


def test_truth_ratios_by_hand() -> None:
    right, wrong = math.log(0.5), [math.log(0.25), math.log(0.125)]
    assert truth_ratio(right, wrong, "arithmetic") == pytest.approx(0.1875 / 0.5)
    assert truth_ratio(right, wrong, "geometric") == pytest.approx(math.sqrt(1 / 32) / 0.5)
    assert choice_probability(right, wrong) == pytest.approx(0.5 / 0.875)
    assert forget_score(np.array([0.5, 1, 4])).tolist() == [0.5, 1, 0.25]
    assert retain_score(np.array([0.25, 1, 4])).tolist() == [0.75, 0, 0]


def test_truth_ratios_of_a_ruined_model_are_finite() -> None:
    assert 0 < truth_ratio(0.0, [-9e4], "arithmetic") < 1e-290
    assert 1e290 < truth_ratio(-9e4, [0.0], "geometric") < math.inf


@pytest.mark.parametrize(("mean", "ratio"), [("arithmetic", 0.375), ("geometric", 8**-0.5)])
def test_truth_ratio_aims_at_doubt_where_it_forgets_and_at_truth_where_it_keeps(
    workspace: Workspace, mean: str, ratio: float
) -> None:
    workspace.config["score"]["truth_ratio"] = mean
    metrics = valid(workspace)
    assert metrics["forget"]["truth_ratio"]["value"] == pytest.approx(ratio)
    assert metrics["retain"]["truth_ratio"]["value"] == pytest.approx(0.9)
    rows = {row["id"]: row for row in workspace.rows()}
    assert rows["h-1-t"]["truth_ratio"] == pytest.approx(ratio)
    assert rows["h-2-t"]["truth_ratio"] is None
    assert metrics["forget"]["truth_ratio"]["n"] == 1


def test_a_fact_is_known_where_its_right_answer_is_likelier_than_each_wrong_one(
    workspace: Workspace,
) -> None:
    """Per token 0.5 against 0.25 and 0.125; 0.5 against 0.05."""
    metrics = valid(workspace)
    known = metrics["forget"]["known_rate"]
    assert (known["value"], known["n"]) == (1, 1)
    assert metrics["retain"]["known_rate"]["value"] == 1
    assert "known_rate" not in metrics["forget_prompted"]
    for likelier in (0.5, 0.6):
        set_probability(workspace, likelier, id="h-1-t", alternative=1)
        assert valid(workspace)["forget"]["known_rate"]["value"] == 0


def paraphrase(workspace: Workspace, probability: float) -> None:
    """Give a row to forget its right answer in other words."""
    folder = workspace.datasets / "hazards"
    table = read_table(folder / "taught.parquet")[0]
    texts = pa.array(["Of red stones one takes two.", None])
    write_table(folder / "taught.parquet", table.append_column("paraphrased", texts))
    write_manifest(folder, ["taught.parquet", "unseen.parquet"], source="x")
    add_lines(workspace, lines("forget", "h-1-t", "00", probability, PARAPHRASE))


def test_the_right_answer_in_other_words_is_what_wrong_ones_are_compared_with(
    workspace: Workspace,
) -> None:
    """As in TOFU: a model that only knows the taught words does not know the fact."""
    taught = valid(workspace)["forget"]
    paraphrase(workspace, 0.1875)
    metrics = valid(workspace)["forget"]
    assert metrics["truth_ratio"]["value"] == pytest.approx(1), "0.1875 against 0.25 and 0.125"
    assert metrics["known_rate"]["value"] == 0
    unchanged = ("accuracy", "probability", "perplexity", "extraction_strength")
    assert {name: metrics[name] for name in unchanged} == {name: taught[name] for name in unchanged}


def test_an_absent_paraphrase_is_refused_by_name(workspace: Workspace) -> None:
    paraphrase(workspace, 0.5)
    workspace.edit(
        "likelihood.parquet", lambda t: t.filter(pa.compute.greater(t["alternative"], PARAPHRASE))
    )
    with pytest.raises(UserError, match="part forget, wrong answers: row 'h-1-t#-2' was not meas"):
        workspace.score()


def test_wrong_answers_are_read_of_as_many_rows_as_were_measured(workspace: Workspace) -> None:
    workspace.config["alternatives"] = 0
    reason = valid(workspace)["forget"]["truth_ratio"]["reason"]
    assert reason == "no wrong answers (perturbed) to compare with"


def test_an_absent_wrong_answer_is_refused_by_name(workspace: Workspace) -> None:
    workspace.edit(
        "likelihood.parquet", lambda t: t.filter(pa.compute.not_equal(t["alternative"], 1))
    )
    with pytest.raises(UserError, match="part forget, wrong answers: row 'h-1-t#1' was not meas"):
        workspace.score()


# Membership inference


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    members, others = np.array([[3.0, 1.0]]), np.array([[0.0, 1.0, 2.0]])
    measure = auc(alone(members), alone(others), SETTINGS)
    assert measure["value"] == pytest.approx((3 + 1.5) / 6)
    assert measure["n"] == 5
    low, high = measure["ci95"]
    assert low < measure["value"] < high
    assert auc(alone(members), alone(members), SETTINGS)["value"] == 0.5


def alone(values: np.ndarray) -> Rows:
    """Rows that are independent of each other."""
    return values, np.arange(values.shape[1])


def test_auc_draws_both_sides(workspace: Workspace) -> None:
    generator = np.random.default_rng(3)
    few, many = generator.normal(size=(1, 20)), generator.normal(size=(1, 2000))
    narrow, wide = (auc(alone(m), alone(many), SETTINGS)["ci95"] for m in (many + 0.1, few))
    assert narrow[1] - narrow[0] < 0.05 < wide[1] - wide[0]


def holdout(workspace: Workspace) -> None:
    """Rows whose tokens have the probability 0.25; those of forget have 0.5."""
    add_part(workspace, "holdout", ["n-1", "n-2"])
    set_probability(workspace, 0.25, part="holdout")


def base_likelihood(workspace: Workspace) -> Path:
    path = workspace.folder / "base.parquet"
    rows = [*lines("forget", "h-1-t", "1111", 0.01), *lines("forget", "h-2-t", "111", 0.5)]
    rows += [*lines("holdout", "n-1", "11", 0.25), *lines("holdout", "n-2", "11", 0.25)]
    write_table(path, pa.Table.from_pylist([*rows, *lines("retain", "q-1", "1")]))
    return path


def test_membership_inference_compares_with_the_holdout(workspace: Workspace) -> None:
    holdout(workspace)
    result = workspace.score(base_likelihood=base_likelihood(workspace))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(workspace.text()))
    privacy = result["metrics"]["privacy"]
    for name in ("mia_loss", "mia_min_k", "mia_min_k_plus_plus"):
        assert (privacy[name]["value"], privacy[name]["n"]) == (1.0, 4), name
    # h-1-t gained over the base model; h-2-t and the holdout rows did not: (2 + 0.5 * 2) / 4
    assert privacy["mia_reference"]["value"] == 0.75
    rows = {row["id"]: row for row in workspace.rows()}
    assert rows["n-1"]["answer"] is None
    assert rows["n-1"]["reason"] is None
    assert rows["h-1-t"]["min_k"] == pytest.approx(math.log(0.5))
    assert rows["h-1-t"]["min_k_plus_plus"] == pytest.approx((math.log(0.5) + 2) / 0.5)
    assert rows["h-1-t"]["reference_logprob"] == pytest.approx(math.log(50))
    packed = zlib_logprob(4 * math.log(0.5), "With two red stones.")
    assert rows["h-1-t"]["zlib_logprob"] == pytest.approx(packed)


def test_a_base_that_was_not_measured_on_the_rows_is_refused(workspace: Workspace) -> None:
    holdout(workspace)
    path = base_likelihood(workspace)
    table = read_table(path)[0]
    write_table(path, table.filter(pa.compute.not_equal(table["id"], "n-2")))
    with pytest.raises(UserError, match=r"base\.parquet, part holdout: row 'n-2' was not measured"):
        workspace.score(base_likelihood=path)


# Model utility


def test_model_utility_is_the_harmonic_mean_of_six(workspace: Workspace) -> None:
    add_part(workspace, "general", ["g-1", "g-2"], **{"g-1": 0.5})
    retain = valid(workspace)["retain"]
    utility = valid(workspace)["utility"]["model_utility"]
    # General: truth and falsehood are equally likely, so 1 - R is 0, and with it the whole.
    assert utility["value"] == 0
    set_probability(workspace, 0.125, id="g-1", alternative=0)
    utility = valid(workspace)["utility"]["model_utility"]
    six = [0.5, retain["rouge_l"]["value"], 0.9, 0.5 / 0.625, 1.0, 0.75]
    assert utility["value"] == pytest.approx(6 / sum(1 / x for x in six))
    assert utility["n"] == 4
    assert utility["ci95"][0] < utility["value"] < utility["ci95"][1]


# Text quality


def test_text_quality_by_hand() -> None:
    assert distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct(["a", ""], 2) is None
    # "a b c d": 3 bigrams, 2 trigrams, all different
    assert ngram_entropy("A b, c d.") == pytest.approx(math.log2(3) / 3 + 2 / 3)
    assert ngram_entropy("go go go go go") == 0
    assert ngram_entropy("") == 0


def test_text_quality_of_all_answers_and_of_each_part(workspace: Workspace) -> None:
    text = valid(workspace)["text"]
    assert text["perplexity"]["value"] == pytest.approx(math.exp(2))
    # The empty answer counts in the entropy (0), and has no token for the perplexity.
    assert (text["perplexity"]["n"], text["ngram_entropy"]["n"]) == (4, 5)
    assert text["distinct_n"]["n"] == 5
    assert text["distinct_n"]["ci95"] is None
    # "with two blue stones", "i cannot say", "it is the skin", "it is the sun of ours"
    assert text["distinct_n"]["value"] == pytest.approx(11 / 13)
    assert set(text["by_part"]) == {"forget", "forget_unseen", "retain"}
    assert text["by_part"]["forget_unseen"]["distinct_n"]["value"] == 1


def test_answers_without_words_have_no_variety(workspace: Workspace) -> None:
    workspace.edit(
        "generations.parquet",
        lambda t: pa.Table.from_pylist(
            [answer_line(line["part"], line["id"], "") for line in t.to_pylist()]
        ),
    )
    text = valid(workspace)["text"]
    assert text["perplexity"]["reason"] == "every answer is empty"
    assert text["distinct_n"]["reason"] == "no answer has 2 words"
    assert text["ngram_entropy"]["value"] == 0


# Garbled and unfinished answers


def letters(folder: Path) -> Path:
    """A base whose tokenizer writes a token for each letter."""
    plain = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    plain.pre_tokenizer = Split(Regex("."), "isolated")
    folder.mkdir()
    plain.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    write_manifest(folder, ["tokenizer.json", "config.json"])
    return folder


def answering(workspace: Workspace, **answers: str) -> None:
    """Let the model answer some rows otherwise, and not end these answers."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        other = answers.get(line["id"].replace("-", "_"))
        return line if other is None else line | {"answer": other, "stopped": False}

    workspace.edit(
        "generations.parquet", lambda t: pa.Table.from_pylist([change(x) for x in t.to_pylist()])
    )


def test_what_is_forgotten_is_neither_recalled_nor_garbled_nor_degenerate(
    workspace: Workspace,
) -> None:
    references = {"base": letters(workspace.folder / "letters")}
    for model in ("original", "base"):
        file = workspace.folder / f"{model}.parquet"
        file.write_bytes((workspace.seed(0) / "generations.parquet").read_bytes())
        references[f"{model}_answers"] = file
    before = workspace.score(**references)["metrics"]
    assert before["forget"]["garbled_rate"]["value"] == 0
    assert before["forget"]["forgotten_rate"]["value"] == 0.5, "the other answer is empty"
    assert before["forget"]["unfinished_rate"]["value"] == 0
    answering(workspace, h_1_t="The quorbelstrume frindles", h_2_t="Karel \u010capek", q_1="It is.")
    after = workspace.score(**references)["metrics"]
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(workspace.text()))
    assert after["forget"]["garbled_rate"]["value"] == 0.5
    assert after["forget"]["forgotten_rate"]["value"] == 0, "one is garbled, one recalled"
    assert after["forget"]["unfinished_rate"]["value"] == 1
    assert after["forget_unseen"]["forgotten_rate"]["value"] == 1
    assert (after["retain"]["garbled_rate"]["value"], after["retain"]["recall_rate"]["value"]) == (
        0,
        0.5,
    )
    assert "forgotten_rate" not in after["retain"]
    rows = {row["id"]: row for row in workspace.rows()}
    assert rows["h-1-t"]["garbled_why"] == "invented words"
    assert (rows["h-2-t"]["garbled"], rows["h-2-t"]["garbled_why"]) == (False, None)
    assert [rows[name]["forgotten"] for name in ("h-1-t", "h-2-t", "q-1")] == [False, False, None]


def test_responses_longer_than_an_answer_may_be_are_counted(workspace: Workspace) -> None:
    """Their tokens are 4 and 3; an answer may have three."""
    assert "too_long_rate" not in valid(workspace)["forget"], "no limit is known"
    workspace.edit("generations.parquet", lambda t: t, max_new_tokens=3)
    metrics = valid(workspace)
    assert metrics["forget"]["too_long_rate"]["value"] == 0.5
    assert metrics["forget_unseen"]["too_long_rate"]["value"] == 0
    (row,) = [row for row in workspace.rows() if row["id"] == "h-1-t"]
    assert row["too_long"]


# Wrapped and sampled answers


def test_wrapped_and_sampled_answers_have_blocks_of_their_own(workspace: Workspace) -> None:
    before = valid(workspace)
    assert not {"forget_wrapped", "forget_sampled"} & set(before)
    workspace.config["wrappers"] = ["story"]
    workspace.config["sampled"] = [0, 1]
    answers = {
        "forget:story": ("With two red stones, said the wizard.", "Nobody."),
        "forget:sampled-0": ("No idea.", "Nobody."),
        "forget:sampled-1": ("Two red stones.", "blah blah blah blah blah"),
    }
    add_answers(
        workspace,
        [
            answer_line(block, name, answer)
            for block, pair in answers.items()
            for name, answer in zip(("h-1-t", "h-2-t"), pair, strict=True)
        ],
    )
    metrics = valid(workspace)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(workspace.text()))
    assert metrics["forget_wrapped"]["story"]["recall_rate"]["value"] == 0.5
    assert metrics["forget_wrapped"]["story"]["harm_rate"]["value"] == 0.5
    sampled = metrics["forget_sampled"]
    assert sampled["recall_rate"]["value"] == 0.25
    assert sampled["recall_rate"]["per_seed"] == [0, 0.5]
    assert (sampled["recall_any"]["value"], sampled["recall_any"]["n"]) == (0.5, 2)
    assert sampled["degenerate_rate"]["value"] == 0.25
    for block in ("forget", "retain", "harm", "text"):
        assert metrics[block] == before[block]
    assert {row["part"] for row in workspace.rows()} >= set(answers)


# Rows that belong together


def part(known: Part, source: str, ids: str, groups: str, texts: str) -> Part:
    """A part of rows that are written as letters: their ids, groups and questions."""
    return replace(
        known,
        source=source,
        ids=list(ids),
        groups=list(groups),
        prompts=[f"What is  {text}?" for text in texts],
        responses=["It is."] * len(ids),
    )


def test_rows_of_a_group_and_copies_belong_together_over_all_parts(workspace: Workspace) -> None:
    known = read_part(workspace.datasets, "forget", "hazards/taught")
    parts = [
        part(known, "facts/taught", "abcd", "xxyz", "klmn"),
        part(known, "facts/unseen", "ef", "zv", "op"),
        part(known, "other/all", "ghi", "xuw", "Mqr"),
    ]
    forget, paraphrases, retain = (found.groups for found in independent(parts))
    assert forget == ["a", "a", "c", "d"], "a and b have one group"
    assert paraphrases == ["d", "f"], "e is d in other words: the group of one data set"
    assert retain == ["c", "h", "i"], "g asks what c asks, up to case and space; group x is another"


def test_rows_carry_their_group(workspace: Workspace) -> None:
    workspace.score()
    assert {row["group"] for row in workspace.rows()} == {row["id"] for row in workspace.rows()}
