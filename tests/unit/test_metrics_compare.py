"""compare.json: paired differences, similarity, forget quality, PrivLeak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.compare import differences
from palimpsest.metrics.measures.compared import (
    NO_RETRAINED,
    forget_quality,
    privleak,
    similarity,
)
from palimpsest.pipeline.stages import Compare
from palimpsest.stages.compare import compare

SETTINGS = {"confidence": 0.95, "bootstrap": 400, "rouge_stemmer": True}


def frame(part: str, seed: int = 0, **columns: list[Any]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    names = [f"r{i}" for i in range(count)]
    return pd.DataFrame({"seed": seed, "part": part, "id": names, "group": names, **columns})


def test_differences_are_taken_row_by_row() -> None:
    before = frame("forget", accuracy=[0.9, 0.1, 0.5], recall=[True, False, None])
    after = frame("forget", accuracy=[0.6, 0.0, 0.5], recall=[False, False, True])
    # Lines in another order, and a row that only one side has, change nothing.
    after = pd.concat([after.iloc[[2, 0, 1]], after.iloc[[0]].assign(id="other")])
    found = differences(after, before, SETTINGS)["forget"]
    assert found["accuracy"]["value"] == pytest.approx(-0.4 / 3)
    assert found["accuracy"]["n"] == 3
    assert (found["recall_rate"]["value"], found["recall_rate"]["n"]) == (-0.5, 2)
    assert "rouge_l" not in found


def test_a_constant_change_has_no_interval_of_width_0() -> None:
    values = [i / 50 for i in range(50)]
    before = frame("retain", mean_logprob=values)
    after = frame("retain", mean_logprob=[v - 0.25 for v in values])
    measure = differences(after, before, SETTINGS)["retain"]["mean_logprob"]
    assert measure["value"] == pytest.approx(-0.25)
    assert measure["ci95"] is None, "a log-probability has no bounds: unseen rows may do anything"


def test_no_change_of_a_share_leaves_room_for_unseen_rows() -> None:
    same = frame("retain", accuracy=[i / 50 for i in range(50)])
    measure = differences(same, same, SETTINGS)["retain"]["accuracy"]
    unseen = 1.959964**2 / (50 + 1.959964**2)
    assert measure["value"] == 0
    assert measure["ci95"] == pytest.approx([-unseen, unseen], abs=1e-6)


def test_seeds_are_compared_with_the_one_model_before() -> None:
    before = frame("forget", accuracy=[1.0, 1.0])
    seeds = [frame("forget", seed, accuracy=[value] * 2) for seed, value in ((0, 0.5), (1, 0.0))]
    after = pd.concat(seeds)
    measure = differences(after, before, SETTINGS)["forget"]["accuracy"]
    assert (measure["value"], measure["per_seed"]) == (-0.75, [-0.5, -1.0])


def test_a_method_does_not_differ_from_itself() -> None:
    one = frame("forget", accuracy=[0.3, 0.8], answer=["the red stone", "no"], min_k=[-1.0, -2.0])
    assert differences(one, one, SETTINGS)["forget"]["accuracy"]["value"] == 0
    assert similarity(one, one, SETTINGS)["forget"]["value"] == 1


def test_similarity_is_rouge_l_against_the_answer_before() -> None:
    before = frame("retain", answer=["the skin", "the sun", "", None])
    after = frame("retain", answer=["the skin of it all", "a moon", "words", None])
    measure = similarity(after, before, SETTINGS)["retain"]
    # precision 2/4 ("of", "it": stop words count), recall 1: F = 2/3 ... five words: 2*(2/5)/(7/5)
    assert measure["value"] == pytest.approx((2 * (2 / 5) / (7 / 5) + 0) / 2)
    assert measure["n"] == 2


def test_forget_quality_by_hand() -> None:
    low, high = [0.1, 0.2, 0.3], [0.7, 0.8, 0.9]
    apart = forget_quality(frame("forget", truth_ratio=low), frame("forget", truth_ratio=high))
    # Fully separated: the exact two-sample p-value is 2 / C(6, 3)
    assert (apart["ks"], apart["n"]) == (1, [3, 3])
    assert apart["p"] == pytest.approx(2 / math.comb(6, 3))
    assert apart["log10_p"] == pytest.approx(math.log10(0.1))
    same = forget_quality(frame("forget", truth_ratio=low), frame("forget", truth_ratio=low))
    assert (same["ks"], same["p"], same["at_floor"]) == (0, 1, False)


def test_forget_quality_never_underflows() -> None:
    many = [i / 1000 for i in range(1000)]
    sides = [frame("forget", truth_ratio=[v + shift for v in many]) for shift in (0, 5)]
    found = forget_quality(*sides)
    assert found["ks"] == 1
    assert -324 < found["log10_p"] < -300
    assert found["at_floor"]


def test_forget_quality_says_why_it_is_null() -> None:
    one = frame("forget", truth_ratio=[None, None])
    assert forget_quality(one, None)["reason"] == NO_RETRAINED
    assert forget_quality(one, one)["reason"] == "no row of forget has a truth ratio"


def both(taught: list[float], new: list[float]) -> pd.DataFrame:
    return pd.concat([frame("forget", min_k=taught), frame("holdout", min_k=new)])


def test_privleak_by_hand() -> None:
    retrained = both([-1.0, -3.0], [-2.0, -2.0])
    assert privleak(retrained, retrained, SETTINGS)["value"] == 0
    # Every taught row stands out: AUC 1 against 0.5
    leaking = both([-0.1, -0.2], [-2.0, -2.0])
    assert privleak(leaking, retrained, SETTINGS)["value"] == -100
    broken = both([-9.0, -9.0], [-2.0, -2.0])
    assert privleak(broken, retrained, SETTINGS)["value"] == 100
    assert "another split" in privleak(retrained, leaking, SETTINGS)["reason"]
    without = frame("forget", min_k=[-1.0])
    assert "holdout" in privleak(without, retrained, SETTINGS)["reason"]
    assert privleak(without, None, SETTINGS)["reason"] == NO_RETRAINED


def compared(config: dict[str, Any], folder: Path, *tables: Path) -> dict[str, Any]:
    names = zip(("rows", "original", "retrained"), tables, strict=False)
    return compare(Compare(config=config, out=folder / "compare.json", **dict(names)))


def test_the_stage_writes_all_of_it(tmp_path: Path) -> None:
    parts = [
        frame("forget", min_k=[-1.0, -3.0], truth_ratio=[0.5, 0.6], accuracy=[1.0, 1.0]),
        frame("holdout", min_k=[-2.0, -2.0], accuracy=[0.5, 0.5]),
    ]
    table = pa.Table.from_pandas(pd.concat(parts).assign(answer=["a", "b", None, None]))
    paths = [tmp_path / name / "rows.parquet" for name in ("sku", "original", "retrained")]
    for path in paths:
        write_table(path, table)
    config = {"model": "mini", "method": "sku", "score": SETTINGS}
    result = compared(config, tmp_path, *paths)
    assert read_document(tmp_path / "compare.json") == result
    assert result["differences"]["holdout"]["accuracy"]["value"] == 0
    assert result["privleak"]["value"] == 0
    assert result["forget_quality"]["ks"] == 0
    alone = compared(config, tmp_path, *paths[:2])
    assert alone["privleak"]["reason"] == NO_RETRAINED


def test_the_statistic_is_that_of_scipy() -> None:
    first, second = [0.1, 0.5, 0.9, 1.4], [0.2, 0.3, 0.4]
    found = forget_quality(frame("forget", truth_ratio=first), frame("forget", truth_ratio=second))
    assert found["ks"] == pytest.approx(stats.ks_2samp(first, second).statistic)


def test_models_in_different_number_types_are_not_compared(tmp_path: Path) -> None:
    """Rounding alone changes a third of the answers."""
    table = pa.Table.from_pandas(frame("forget", accuracy=[1.0, 0.0], answer=["a", "b"]))
    paths = [tmp_path / name / "rows.parquet" for name in ("sku", "original")]
    config = {"model": "mini", "method": "sku", "score": SETTINGS}
    for types in (["bfloat16", "bfloat16"], ["bfloat16", None]):
        for path, dtype in zip(paths, types, strict=True):
            write_table(path, table, dtype=dtype)
        compared(config, tmp_path, *paths)
    for path, dtype in zip(paths, ["bfloat16", "float32"], strict=True):
        write_table(path, table, dtype=dtype)
    with pytest.raises(UserError, match=r"sku/rows\.parquet in bfloat16, .* in float32; set dtype"):
        compared(config, tmp_path, *paths)


def test_a_method_is_no_reference_of_itself(tmp_path: Path) -> None:
    """OU#19: with one file given twice, every distance was perfect."""
    table = pa.Table.from_pandas(frame("forget", mean_logprob=[-1.0, -3.0], answer=["a", "b"]))
    path = tmp_path / "rows.parquet"
    write_table(path, table)
    config = {"model": "mini", "method": "original", "score": SETTINGS}
    with pytest.raises(UserError, match="the model of 'original' itself"):
        compared(config, tmp_path, path, path, path)
    assert compared(config | {"method": "retrained"}, tmp_path, path, path, path)


def test_published_numbers_stand_in_place_of_retrained(tmp_path: Path) -> None:
    """An evaluation folder of another run, and MUSE's constant, which counts for PrivLeak."""
    parts = [
        frame("forget", min_k=[-1.0, -3.0], truth_ratio=[0.5, 0.6]),
        frame("holdout", min_k=[-2.0, -2.0]),
    ]
    table = pa.Table.from_pandas(pd.concat(parts).assign(answer=["a", "b", None, None]))
    for name in ("sku", "elsewhere"):
        write_table(tmp_path / name / "rows.parquet", table)
    given = {"rows": f"path:{tmp_path}/elsewhere", "auc": 0.4, "truth_ratio": "arithmetic"}
    config = {"model": "mini", "method": "sku", "score": SETTINGS, "reference": given}
    path = tmp_path / "sku/rows.parquet"
    result = compared(config, tmp_path, path, path)
    assert result["forget_quality"]["p"] == 1
    assert result["privleak"]["value"] == pytest.approx(25)
