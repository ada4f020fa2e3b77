"""Logs of other programs: the aggregates that follow, against the formulas written out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import palimpsest
from kit.published import published
from palimpsest.errors import UserError

SETS = {"forget": 5, "retain": 5, "real_authors": 3, "world_facts": 3}
"""Set -> number of wrong answers."""
FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
SHORT = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
BLOCKS = {"real_authors": "general", "world_facts": "general/world_facts"}
Losses = dict[str, dict[str, np.ndarray]]


def losses(seed: int, counts: dict[str, int] | None = None) -> Losses:
    """Invented losses of every set; the first row is that of a collapsed model."""
    random = np.random.default_rng(seed)
    found = {}
    for name, wrong in SETS.items():
        n = (counts or {}).get(name, 23)
        rows = {
            "taught": random.uniform(0.01, 3, n),
            "right": random.uniform(0.5, 3, n),
            "wrong": random.uniform(0.5, 6, (n, wrong)),
            "rouge": random.uniform(0, 1, n),
        }
        rows["right"][0], rows["wrong"][0] = 50.0, 51.0
        if name in BLOCKS:
            rows["right"] = rows["taught"]
        found[name] = rows
    return found


def by_hand(sets: Losses, kind: str) -> dict[str, float]:
    """Everything that TOFU reports of one model."""
    found: dict[str, float] = {}
    nine = []
    for name, rows in sets.items():
        ratio = ratios(rows, kind)
        share = np.exp(-rows["taught"])
        if name in BLOCKS:
            share = share / (share + np.exp(-rows["wrong"]).sum(axis=1))
        score = np.minimum(ratio, 1 / ratio) if name == "forget" else np.maximum(0, 1 - ratio)
        three = [float(np.nanmean(each)) for each in (share, rows["rouge"], score)]
        block = BLOCKS.get(name, name)
        probability = "choice_probability" if name in BLOCKS else "probability"
        for measure, value in zip((probability, "rouge_l", "truth_ratio"), three, strict=True):
            found[f"{block}.{measure}"] = value
        nine += [] if name == "forget" else three
    found["utility.model_utility"] = float(stats.hmean(nine))
    return found


def ratios(rows: dict[str, np.ndarray], kind: str) -> np.ndarray:
    if kind == "geometric":
        found = np.exp(rows["right"] - rows["wrong"].mean(axis=1))
    else:
        found = np.exp(rows["right"][:, None] - rows["wrong"]).mean(axis=1)
    return np.asarray(found)


def plain(values: np.ndarray) -> Any:
    """As JSON has it: null where there is none."""
    return json.loads(json.dumps(values.tolist()).replace("NaN", "null"))


def tofu(sets: Losses, as_lists: bool = False) -> dict[str, Any]:
    """The logs of TOFU's code together; rows are sorted as texts, as JSON has them."""

    def column(values: np.ndarray) -> Any:
        table = plain(values)
        names = sorted(map(str, range(len(table))))
        return table if as_lists else {name: table[int(name)] for name in names}

    return {
        FILES[name]: {
            "avg_gt_loss": column(rows["taught"]),
            "avg_paraphrased_loss": column(rows["right"]),
            "average_perturb_loss": column(rows["wrong"]),
            "rougeL_recall": column(rows["rouge"]),
        }
        for name, rows in sets.items()
    }


def npo(sets: Losses) -> dict[str, Any]:
    return tofu(sets, as_lists=True)


def reduced(sets: Losses) -> dict[str, Any]:
    names = {
        "taught": "gt_loss",
        "right": "paraphrased_loss",
        "wrong": "perturbed_loss",
        "rouge": "rougeL_recall",
    }
    return {s: {names[k]: plain(v) for k, v in rows.items()} for s, rows in sets.items()}


def open_unlearning(sets: Losses) -> dict[str, Any]:
    log: dict[str, Any] = {"model_utility": {"agg_value": 0.5}}
    for name, rows in sets.items():
        short = SHORT[name]

        def by_row(short: str = short, **columns: np.ndarray) -> dict[str, Any]:
            tables = {key: plain(values) for key, values in columns.items()}
            count = len(next(iter(tables.values())))
            return {
                "value_by_index": {
                    str(i): {key: table[i] for key, table in tables.items()} for i in range(count)
                }
            }

        log[f"{short}_Q_A_Prob"] = by_row(prob=np.exp(-rows["taught"]), avg_loss=rows["taught"])
        log[f"{short}_Q_A_ROUGE"] = by_row(rougeL_recall=rows["rouge"], rougeL_f1=rows["rouge"] / 2)
        log[f"{short}_Q_A_PERT_Prob"] = by_row(avg_loss=rows["wrong"])
        if name not in BLOCKS:
            log[f"{short}_Q_A_PARA_Prob"] = by_row(avg_loss=rows["right"])
    return log


FORMS: dict[str, Callable[[Losses], dict[str, Any]]] = {
    "tofu": tofu,
    "npo": npo,
    "reduced": reduced,
    "open-unlearning": open_unlearning,
}


def values(table: pd.DataFrame) -> dict[str, float]:
    return {f"{row.block}.{row.measure}": row.value for row in table.itertuples()}


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize("form", FORMS)
def test_every_aggregate_of_a_log(form: str, kind: str) -> None:
    ours, others = losses(1), losses(2)
    table = palimpsest.score_log(FORMS[form](ours), npo(others), truth_ratio=kind, bootstrap=5)
    found, expected = values(table), by_hand(ours, kind)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    test = stats.ks_2samp(ratios(ours["forget"], kind), ratios(others["forget"], kind))
    assert found["forget_quality.ks"] == pytest.approx(test.statistic)
    assert found["forget_quality.p"] == pytest.approx(test.pvalue, rel=1e-6)
    assert set(table.n) == {23, 3 * 23}


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_a_number_is_left_out_and_is_none_of_another_split(form: str) -> None:
    ours = losses(3)
    for rows in ours.values():
        rows["taught"][4], rows["rouge"][5], rows["wrong"][6, 1] = np.nan, np.nan, np.nan
    table = palimpsest.score_log(FORMS[form](ours), tofu(losses(2)), bootstrap=5)
    found, expected = values(table), by_hand(ours, "geometric")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    ratio = ratios(ours["forget"], "geometric")
    test = stats.ks_2samp(ratio[~np.isnan(ratio)], ratios(losses(2)["forget"], "geometric"))
    assert found["forget_quality.p"] == pytest.approx(test.pvalue, rel=1e-6)
    rows = table.set_index(["block", "measure"])
    assert rows.n["forget", "truth_ratio"] == 22


def test_sets_of_other_sizes_and_a_folder_of_logs(tmp_path: Path) -> None:
    """As forget01 is: 40 rows against 300, and one row alone."""
    ours = losses(4, {"forget": 1, "retain": 300, "real_authors": 100, "world_facts": 117})
    for name, log in tofu(ours).items():
        (tmp_path / name).write_text(json.dumps(log), encoding="utf-8")
    found = values(palimpsest.score_log(tmp_path, bootstrap=5))
    expected = by_hand(ours, "geometric")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    alone = values(palimpsest.score_log(tmp_path / "eval_log.json", bootstrap=5))
    assert alone["retain.truth_ratio"] == pytest.approx(expected["retain.truth_ratio"])
    with pytest.raises(UserError, match=r"2 forget rows, and the method of 1: .*another split"):
        palimpsest.score_log(tmp_path, tofu(losses(2, {"forget": 2})), bootstrap=5)


def test_a_row_that_stands_twice_in_a_log_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "eval_log_forget.json"
    file.write_text('{"avg_gt_loss": {"0": 1.0, "0": 2.0}}')
    with pytest.raises(UserError, match=r"eval_log_forget\.json: .*'0' stands twice"):
        palimpsest.score_log(file)
    with pytest.raises(UserError, match=r"has none of eval_log_forget\.json, eval_log\.json"):
        palimpsest.score_log(tmp_path / "..")


def test_utility_of_a_log_without_a_set_is_null() -> None:
    log = tofu(losses(1))
    del log[FILES["world_facts"]]
    table = palimpsest.score_log(log, bootstrap=5).set_index("measure")
    assert np.isnan(table.value["model_utility"])
    assert "nothing of general/world_facts" in table.reason["model_utility"]
    # A zero is none: it makes the mean 0.
    zero = losses(1)
    zero["retain"]["rouge"][:] = 0
    assert values(palimpsest.score_log(npo(zero), bootstrap=5))["utility.model_utility"] == 0


def test_more_rows_make_a_smaller_p_and_leave_the_distance() -> None:
    """OU#142: the same model against the same reference, on 40 rows and on 160 of their kind."""
    tests = []
    for times in (1, 4):
        sides = [losses(seed, {"forget": 40})["forget"] for seed in (6, 7)]
        sides[1]["wrong"] -= 1
        logs = [
            npo({"forget": {name: np.concatenate([v] * times) for name, v in rows.items()}})
            for rows in sides
        ]
        found = values(palimpsest.score_log(*logs, bootstrap=5))
        tests.append((found["forget_quality.ks"], found["forget_quality.p"]))
    assert tests[0][0] == pytest.approx(tests[1][0])
    assert tests[1][1] < tests[0][1] ** 2


def test_only_ratios_of_open_unlearning_are_geometric() -> None:
    score = {str(i): {"score": 0.5} for i in range(3)} | {"3": None}
    log = {"forget_truth_ratio": {"value_by_index": score}}
    table = palimpsest.score_log(log, bootstrap=5)
    assert (table.value[0], table.n[0]) == (0.5, 3)
    with pytest.raises(UserError, match=r"are geometric, and score\.truth_ratio is arithmetic"):
        palimpsest.score_log(log, truth_ratio="arithmetic")


def test_the_third_text_of_a_log_is_not_the_answer() -> None:
    """OU#16: prompt, answer, right answer; a log in another order is refused."""
    texts = [["Who?", "Ada Hill.", "It was Ada Hill."]] * 2
    log = {"eval_log_forget.json": {"generated_text": texts, "rougeL_recall": [0.5, 0.5]}}
    assert palimpsest.score_log(log, bootstrap=5).value.to_list() == [0.5]
    log["eval_log_forget.json"]["generated_text"] = [[a, c, b] for a, b, c in texts]
    with pytest.raises(UserError, match=r"in 2 rows the logged .* \(row 0: 0.5 and 1\)"):
        palimpsest.score_log(log)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({}, "no numbers of rows that can be read"),
        ({"eval_log.json": {"avg_gt_loss": [1.0], "rougeL_recall": []}}, "avg_gt_loss has 1"),
        ({"eval_log.json": {"avg_gt_loss": {"first": 1.0}}}, "a number of a row is needed"),
        ({"eval_log.json": {"avg_gt_loss": 1.0}}, "avg_gt_loss: a value for each row"),
        ({"eval_log.json": {"avg_gt_loss": ["1"]}}, "a number is needed, found '1'"),
        ({"avg_gt_loss": [1.0], "average_perturb_loss": [[1.0]]}, "no avg_paraphrased_loss"),
        ({"texts": {}, "rouge": {"knowmem": {}}}, "no part 'knowmem'; valid: knowmem_f"),
    ],
)
def test_a_log_of_another_form_is_refused_by_name(log: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        palimpsest.score_log(log)


def test_scores_of_texts_and_privleak() -> None:
    """AUC by counting pairs, ties half; PrivLeak with a log and with a constant."""
    random = np.random.default_rng(5)
    logs: list[dict[str, Any]] = []
    for shift in (1.0, 0.1):
        draws = np.round(random.normal(0, 1, (2, 40)), 1)
        sides = {"forget": draws[0], "holdout": draws[1] + shift}
        logs.append({"texts": {k: {"Min-40%": v.tolist()} for k, v in sides.items()}})
    unlikely = [
        np.mean(
            [
                [(h < f) + 0.5 * (h == f) for h in log["texts"]["holdout"]["Min-40%"]]
                for f in log["texts"]["forget"]["Min-40%"]
            ]
        )
        for log in logs
    ]
    found = values(palimpsest.score_log(*logs, bootstrap=5))
    assert 1 - found["privacy.Min-40%"] == pytest.approx(unlikely[0], rel=1e-9)
    leak = (unlikely[0] - unlikely[1]) / unlikely[1] * 100
    assert found[".privleak"] == pytest.approx(leak, rel=1e-6)
    constant = values(palimpsest.score_log(logs[0], auc=0.4772, bootstrap=5))
    assert constant[".privleak"] == pytest.approx((unlikely[0] - 0.4772) / 0.4772 * 100, rel=1e-6)


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize("model", ["full", "retain90"])
def test_the_published_log_of_tofu(model: str, kind: str) -> None:
    golden = json.loads(published("tofu/golden_llama2_wd0.json").read_text(encoding="utf-8"))
    models = golden["models"]
    table = palimpsest.score_log(models[model], models["retain90"], truth_ratio=kind, bootstrap=5)
    found, expected = values(table), golden["expected"][model][kind]
    for name in SETS:
        block = BLOCKS.get(name, name)
        probability = "choice_probability" if name in BLOCKS else "probability"
        ours = [found[f"{block}.{m}"] for m in (probability, "rouge_l", "truth_ratio")]
        assert ours == pytest.approx(list(expected[name].values()), rel=1e-6)
    assert found["utility.model_utility"] == pytest.approx(expected["model_utility"], rel=1e-6)
    if model == "full":
        test = golden["forget_quality_full_vs_retain90"][kind]
        assert found["forget_quality.p"] == pytest.approx(test["p"], rel=1e-4)


@pytest.mark.parametrize("name", ["news_tv", "books_lmhead"])
def test_the_published_log_of_muse(name: str) -> None:
    golden = json.loads(published(f"muse/golden_{name}.json").read_text(encoding="utf-8"))
    expected = golden["expected"]
    found = values(palimpsest.score_log(golden, auc=expected["auc_retrained"], bootstrap=5))
    assert 1 - found["privacy.Min-40%"] == pytest.approx(expected["auc_forget_holdout_min40"])
    assert found[".privleak"] == pytest.approx(expected["privleak"], rel=1e-6)
    means = {k: found[f"{block}.rouge_l"] for k, block in MUSE.items()}
    assert means == pytest.approx({k: v["mean"] for k, v in golden["rouge"].items()}, abs=1e-6)


MUSE = {"knowmem_f": "forget", "knowmem_r": "retain", "verbmem_f": "forget/verbatim"}
