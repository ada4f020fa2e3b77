"""Aggregates of published logs, by our own functions: TOFU, MUSE, RWKU, OpenUnlearning's models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kit.published import published
from palimpsest.errors import UserError
from palimpsest.metrics.composite import combined
from palimpsest.metrics.declaration import Scored
from palimpsest.metrics.estimates import harmonic
from palimpsest.metrics.measures.compared import forget_quality, privleak
from palimpsest.metrics.measures.privacy import auc
from palimpsest.metrics.measures.truth_ratio import (
    choice_probability,
    forget_score,
    retain_score,
    truth_ratio,
)
from palimpsest.metrics.measures.utility import model_utility
from palimpsest.metrics.reference import reference_rows, refuse_another_split
from palimpsest.metrics.rouge import Rouge

SETTINGS = {"confidence": 0.95, "bootstrap": 20}
BLOCKS = {
    "retain": "retain",
    "forget": "forget",
    "real_authors": "general",
    "world_facts": "general/world_facts",
}
"""TOFU's sets -> our blocks."""
KINDS = ("geometric", "arithmetic")
PARTS_OF_UTILITY = ("q_prob", "q_rouge", "truth_ratio")


def ratios(rows: dict[str, Any], kind: str, right: str = "paraphrased_loss") -> np.ndarray:
    """R of each row."""
    pairs = zip(rows[right], rows["perturbed_loss"], strict=True)
    return np.array([truth_ratio(-r, [-w for w in wrong], kind) for r, wrong in pairs])


def columns(rows: dict[str, Any], kind: str) -> dict[str, np.ndarray]:
    """The columns of rows.parquet that follow from a log, [1, rows]."""
    pairs = zip(rows["gt_loss"], rows["perturbed_loss"], strict=True)
    values = {
        "probability": np.exp(-np.array(rows["gt_loss"])),
        "choice_probability": [choice_probability(-r, [-w for w in wrong]) for r, wrong in pairs],
        "rouge_l": rows["rougeL_recall"],
        "truth_ratio": ratios(rows, kind),
    }
    return {name: np.array(each, dtype=float)[None] for name, each in values.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["full", "retain90"])
def test_tofu_model_utility_and_its_parts(model: str, kind: str) -> None:
    """The mean of nine, of both definitions of the truth ratio, to 1e-9 relative."""
    golden = json.loads(published("tofu/golden_llama2_wd0.json").read_text(encoding="utf-8"))
    expected = golden["expected"][model][kind]
    parts = {}
    for name, block in BLOCKS.items():
        parts[block] = columns(golden["models"][model][name], kind)
        score = forget_score if name == "forget" else retain_score
        plain = "probability" if name in ("forget", "retain") else "choice_probability"
        found = {
            "probability": parts[block][plain].mean(),
            "rougeL_recall": parts[block]["rouge_l"].mean(),
            "truth_ratio": score(parts[block]["truth_ratio"]).mean(),
        }
        assert found == pytest.approx(expected[name], rel=1e-9)
    groups = {
        block: np.array([f"{block} {i}" for i in range(part["rouge_l"].shape[1])])
        for block, part in parts.items()
    }
    utility = model_utility(Scored(parts, {}, groups, SETTINGS), "utility")
    assert utility["value"] == pytest.approx(expected["model_utility"], rel=1e-9)
    assert utility["n"] == 300 + 100 + 117


def of_forget(values: np.ndarray, part: str = "forget", column: str = "truth_ratio") -> Any:
    """Rows of rows.parquet."""
    names = [f"{part}-{i:03d}" for i in range(len(values))]
    facts = {"seed": 0, "part": part, "id": names, "group": names}
    return pd.DataFrame({**facts, column: values})


@pytest.mark.parametrize("kind", KINDS)
def test_tofu_forget_quality(kind: str) -> None:
    golden = json.loads(published("tofu/golden_llama2_wd0.json").read_text(encoding="utf-8"))
    expected = golden["forget_quality_full_vs_retain90"][kind]
    models = golden["models"]
    full, kept = (of_forget(ratios(models[name]["forget"], kind)) for name in ("full", "retain90"))
    found = forget_quality(full, kept)
    assert found["ks"] == pytest.approx(expected["ks"], rel=1e-9)
    assert found["p"] == pytest.approx(expected["p"], rel=1e-6)
    assert found["n"] == [300, 300]
    # Of the model without the knowledge against itself, p is 1 and its logarithm 0 (OU#63).
    itself = forget_quality(kept, kept)
    assert (itself["ks"], itself["p"], itself["log10_p"]) == (0, 1, 0)


def test_the_taught_answer_in_place_of_its_paraphrase_is_another_number() -> None:
    golden = json.loads(published("tofu/golden_llama2_wd0.json").read_text(encoding="utf-8"))
    rows = golden["models"]["full"]["forget"]
    taught = forget_score(ratios(rows, "geometric", "gt_loss")).mean()
    assert taught == pytest.approx(0.051104, abs=1e-6)
    assert forget_score(ratios(rows, "geometric")).mean() == pytest.approx(0.517147, abs=1e-6)


def test_tofu_rouge_to_the_last_digit() -> None:
    lines = published("tofu/golden_rouge_texts.jsonl").read_text(encoding="utf-8").splitlines()
    scorers = {
        name: Rouge(["rougeL"], True, takes, "rouge-score")
        for name, takes in (("rougeL_recall", "recall"), ("rougeL_f", "f"))
    }
    for row in map(json.loads, lines):
        for name, scorer in scorers.items():
            found = scorer.score(row["reference"], row["answer"])
            assert found is not None
            assert round(found["rougeL"], 7) == row[name], row


def test_every_convention_of_rouge_l() -> None:
    """TOFU, MUSE and RWKU call three numbers ROUGE-L."""
    conventions = {
        "tofu_recall_stemmed": Rouge(["rougeL"], True, "recall", "rouge-score"),
        "f_stemmed": Rouge(["rougeL"], True, "f", "rouge-score"),
        "muse_f_unstemmed": Rouge(["rougeL"], False, "f", "rouge-score"),
        "recall_unstemmed": Rouge(["rougeL"], False, "recall", "rouge-score"),
        "rwku_recall_rouge_package": Rouge(["rougeL"], False, "recall", "rouge"),
        "f_rouge_package": Rouge(["rougeL"], False, "f", "rouge"),
    }
    for row in map(json.loads, published("rwku/rouge_pairs.jsonl").read_text().splitlines()):
        for name, scorer in conventions.items():
            found = scorer.score(row["reference"], row["answer"])
            assert found is not None
            assert found["rougeL"] == pytest.approx(row[name], abs=1e-6), (name, row)


def test_utility_of_76_published_models() -> None:
    """The harmonic mean of nine parts, of 76 models of Llama-3.2-1B."""
    sets, parts = ("retain", "ra", "wf"), PARTS_OF_UTILITY
    rows = [json.loads(x) for x in published("tofu/models152_even.jsonl").read_text().splitlines()]
    assert len(rows) == 76
    nine = np.array([[row[f"{s}_{p}"] for s in sets for p in parts] for row in rows])
    expected = np.array([row["model_utility"] for row in rows])
    # A zero stands for 1e-12 there, and for 0 here.
    assert harmonic(nine) == pytest.approx(expected, rel=1e-6, abs=1e-11)


def test_combined_scores_of_76_published_models() -> None:
    """Memorization and privacy: harmonic means in which a zero stands for 1e-12."""
    rows = [json.loads(x) for x in published("tofu/models152_even.jsonl").read_text().splitlines()]
    names = {
        "model_utility": [f"{s}_{p}" for s in ("retain", "ra", "wf") for p in PARTS_OF_UTILITY],
        "mem": [f"one_minus_{name}" for name in ("es", "em", "paraprob", "truth")],
        "privacy_mia": [f"s_{name}" for name in ("loss", "zlib", "mink", "minkpp")],
        "utility": ["model_utility", "fluency"],
    }
    for row in rows:
        for name, terms in names.items():
            found = combined([row[term] for term in terms], "harmonic", floor=1e-12)
            assert found == pytest.approx(row[name], rel=1e-6, abs=2e-8), (row["model"], name)


@pytest.mark.parametrize("name", ["news_tv", "books_lmhead"])
def test_muse_auc_and_privleak(name: str) -> None:
    golden = json.loads(published(f"muse/golden_{name}.json").read_text(encoding="utf-8"))
    expected = golden["expected"]
    scores = {k: -np.array(v["Min-40%"]) for k, v in golden["texts"].items()}
    sides = [(scores[k][None], np.array([f"{k} {i}" for i in range(100)])) for k in scores]
    forget, _, holdout = sides
    # MUSE's direction is the other one: 0 is memorised.
    found = auc(forget, holdout, SETTINGS)["value"]
    assert 1 - found == pytest.approx(expected["auc_forget_holdout_min40"], abs=1e-9)
    # A reference whose AUC is the one that MUSE has as a constant: of 10,000 pairs it wins as many.
    unseen = expected["auc_retrained"]
    lost = round(unseen * 10_000)
    ours, gold = (
        pd.concat([of_forget(a, "forget", "min_k"), of_forget(b, "holdout", "min_k")])
        for a, b in ((scores["forget"], scores["holdout"]), with_losses(lost))
    )
    value = privleak(ours, gold, SETTINGS)["value"]
    assert value == pytest.approx(expected["privleak"], rel=1e-6)
    # And with the constant itself, as MUSE's own code has it.
    constant = privleak(ours, None, SETTINGS | {"reference_auc": unseen})["value"]
    assert constant == pytest.approx(expected["privleak"], rel=1e-9)
    for part in golden["rouge"].values():
        assert np.mean(part["rougeL_f_per_row"]) == pytest.approx(part["mean"], abs=1e-6)


def with_losses(lost: int) -> tuple[np.ndarray, np.ndarray]:
    """100 scores and 100 others; of the 10,000 pairs the first are lower in `lost`."""
    whole, rest = divmod(lost, 100)
    return np.array([-1.0] * whole + [99.5 - rest] + [200.0] * (99 - whole)), np.arange(100.0)


@pytest.mark.parametrize("unseen", [0.0188, 0.9])
def test_a_reference_that_was_taught_the_rows_is_refused(unseen: float) -> None:
    """OU#167: with the log of the taught model as that of the reference, PrivLeak was 5215."""
    frames = [
        pd.concat([of_forget(a, "forget", "min_k"), of_forget(b, "holdout", "min_k")])
        for a, b in (with_losses(10), with_losses(round(unseen * 10_000)))
    ]
    found = privleak(*frames, SETTINGS)
    assert found["value"] is None
    assert "another split" in found["reason"]
    assert f"{1 - unseen:.4g}" in found["reason"]


def test_losses_of_a_collapsed_model() -> None:
    """OpenUnlearning adds 1e-10 to a probability of e**-50, and gets 7e-13."""
    assert truth_ratio(-50.0, [-51.0], "geometric") == pytest.approx(0.36787944117)


def legacy(rows: dict[str, Any], as_lists: bool) -> dict[str, Any]:
    """The log of one set, as TOFU's own code (a table by row) or NPO's (a list) writes it."""
    right, wrong = rows["paraphrased_loss"], rows["perturbed_loss"]
    if as_lists:
        return {"avg_paraphrased_loss": right, "average_perturb_loss": wrong}
    # JSON sorts the numbers of rows as texts.
    table = {str(i): pair for i, pair in enumerate(zip(right, wrong, strict=True))}
    return {
        "avg_paraphrased_loss": {i: table[i][0] for i in sorted(table)},
        "average_perturb_loss": {i: table[i][1] for i in sorted(table)},
    }


@pytest.mark.parametrize("form", ["tofu", "npo", "open-unlearning"])
def test_a_published_log_is_a_reference(form: str, tmp_path: Path) -> None:
    golden = json.loads(published("tofu/golden_llama2_wd0.json").read_text(encoding="utf-8"))
    kept = golden["models"]["retain90"]["forget"]
    expected = golden["forget_quality_full_vs_retain90"]["geometric"]
    if form == "open-unlearning":
        ratios_ = {str(i): {"score": r} for i, r in enumerate(ratios(kept, "geometric"))}
        log: Any = {"forget_truth_ratio": {"value_by_index": ratios_}}
    else:
        log = legacy(kept, as_lists=form == "npo")
        log = log if form == "npo" else {"eval_log_forget.json": log}
    file = tmp_path / "log.json"
    file.write_text(json.dumps(log), encoding="utf-8")
    full = of_forget(ratios(golden["models"]["full"]["forget"], "geometric"))
    reference = reference_rows(file, "geometric")
    refuse_another_split(full, reference, file)
    assert forget_quality(full, reference)["p"] == pytest.approx(expected["p"], rel=1e-6)
    with pytest.raises(UserError, match=r"300 forget rows, and the method of 40: .* another split"):
        refuse_another_split(full.head(40), reference, file)
    if form == "open-unlearning":
        with pytest.raises(UserError, match="are geometric"):
            reference_rows(file, "arithmetic")
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="no numbers of rows that can be read"):
        reference_rows(file, "geometric")
