"""Teacher-forced measures, each against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from palimpsest.errors import UserError
from palimpsest.metrics.measures.privacy import min_k_plus_plus
from palimpsest.metrics.measures.teacher_forced import (
    accuracy,
    extraction_strength,
    probability,
    row_perplexity,
)
from palimpsest.metrics.teacher_forced import teacher_forced


def likelihood(rows: dict[str, list[tuple[float, bool]]], eos: bool = True) -> pa.Table:
    """Lines of {id: [(probability, hit), ...]}; with `eos`, the last token is end-of-text."""
    lines = [
        {"id": i, "position": p, "logprob": math.log(q), "hit": h, "eos": eos and p == len(r) - 1}
        | {"mean": -2.0, "sd": 0.5}
        for i, r in rows.items()
        for p, (q, h) in enumerate(r)
    ]
    return pa.Table.from_pylist(lines)


def one(hits: str) -> float:
    """Extraction strength of a row whose hits are 1 and misses 0."""
    table = likelihood({"a": [(0.5, h == "1") for h in hits]}, eos=False)
    return extraction_strength(teacher_forced(table, ["a"], "t"))[0]


def test_hand_worked_row() -> None:
    table = likelihood({"a": [(0.5, True), (0.125, False), (0.25, True), (0.9, False)]})
    tokens = teacher_forced(table, ["a"], "t")
    assert tokens.count[0] == 3
    assert accuracy(tokens)[0] == pytest.approx(2 / 3)
    # (1/2 * 1/8 * 1/4) ** (1/3) = (1/64) ** (1/3) = 1/4
    assert probability(tokens)[0] == pytest.approx(0.25)
    assert row_perplexity(tokens)[0] == pytest.approx(4)
    assert tokens.mean_logprob[0] == pytest.approx(-math.log(4))
    # the first two tokens must be given: 1 - 2/3
    assert extraction_strength(tokens)[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("share", "wanted"), [(0.2, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_min_k_is_the_mean_of_the_least_likely_tokens(share: float, wanted: int) -> None:
    probabilities = [0.5, 0.125, 0.25, 0.0625]
    table = likelihood({"a": [(q, True) for q in (*probabilities, 1e-9)], "b": [(0.5, True)] * 2})
    tokens = teacher_forced(table, ["a", "b"], "t")
    lowest = [math.log(q) for q in sorted(probabilities)[:wanted]]
    mean = sum(lowest) / wanted
    assert tokens.mean_of_lowest(tokens.logprob, share).tolist() == pytest.approx(
        [mean, math.log(0.5)]
    )
    # -2 is what the model expects there, 0.5 its deviation
    standard = (np.array([mean, math.log(0.5)]) + 2) / 0.5
    assert min_k_plus_plus(tokens, share).tolist() == pytest.approx(standard.tolist())


def test_min_k_plus_plus_ranks_by_deviations_of_each_token() -> None:
    table = likelihood({"a": [(0.5, True), (0.25, True)]}, eos=False)
    table = table.set_column(table.column_names.index("mean"), "mean", pa.array([-0.1, -3.0]))
    tokens = teacher_forced(table, ["a"], "t")
    assert tokens.mean_of_lowest(tokens.logprob, 0.5)[0] == pytest.approx(math.log(0.25))
    assert min_k_plus_plus(tokens, 0.5)[0] == pytest.approx((math.log(0.5) + 0.1) / 0.5)


@pytest.mark.parametrize(
    ("hits", "strength"),
    [("1111", 1.0), ("0111", 0.75), ("1011", 0.5), ("1110", 0.0), ("0000", 0.0), ("0", 0.0)],
)
def test_extraction_strength(hits: str, strength: float) -> None:
    assert one(hits) == strength


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_a_model_that_is_always_wrong_has_no_extraction_strength(length: int) -> None:
    assert one("0" * length) == 0


def test_end_of_text_never_counts() -> None:
    with_eos = likelihood({"a": [(0.5, True), (0.25, False), (1e-9, False)]})
    without = likelihood({"a": [(0.5, True), (0.25, False)]}, eos=False)
    first, second = (teacher_forced(t, ["a"], "t") for t in (with_eos, without))
    assert first.count == second.count
    for formula in (accuracy, probability, row_perplexity, extraction_strength):
        assert formula(first) == formula(second)


def test_order_of_lines_changes_nothing() -> None:
    generator = np.random.default_rng(1)
    rows = {
        f"r{i}": [(float(q), bool(q > 0.5)) for q in generator.uniform(0.01, 1, size=2 + i)]
        for i in range(9)
    }
    table = likelihood(rows)
    shuffled = table.take(generator.permutation(len(table)))
    first, second = (teacher_forced(t, sorted(rows), "t") for t in (table, shuffled))
    assert first.count.tobytes() == second.count.tobytes()
    assert first.logprob.tobytes() == second.logprob.tobytes()
    for formula in (accuracy, probability, extraction_strength):
        assert formula(first).tobytes() == formula(second).tobytes()


def test_a_row_with_nothing_but_end_of_text_has_no_measures() -> None:
    tokens = teacher_forced(
        likelihood({"a": [(0.5, True)], "b": [(0.5, True)] * 2}), ["a", "b"], "t"
    )
    assert tokens.count.tolist() == [0, 1]
    assert np.isnan(accuracy(tokens)).tolist() == [True, False]
    assert np.isnan(extraction_strength(tokens)[0])
    assert np.isnan(row_perplexity(tokens)[0])


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 0.5])
def test_impossible_log_probability_is_refused_by_name(value: float) -> None:
    lines = likelihood({"a": [(0.5, True)] * 2, "b": [(0.5, True)] * 3}).to_pylist()
    lines[3]["logprob"] = value
    with pytest.raises(UserError, match=r"t: row 'b' has the log-probability .* at position 1"):
        teacher_forced(pa.Table.from_pylist(lines), ["a", "b"], "t")


def test_missing_log_probability_is_refused_by_name() -> None:
    lines = likelihood({"a": [(0.5, True)] * 2}).to_pylist()
    lines[0]["logprob"] = None
    with pytest.raises(UserError, match="row 'a' has the log-probability nan at position 0"):
        teacher_forced(pa.Table.from_pylist(lines), ["a"], "t")


def test_rows_must_be_those_of_the_data_set() -> None:
    table = likelihood({"a": [(0.5, True)], "b": [(0.5, True)]})
    with pytest.raises(UserError, match="t: row 'c' was not measured"):
        teacher_forced(table, ["a", "b", "c"], "t")
    with pytest.raises(UserError, match="t: row 'b' is not in the data set"):
        teacher_forced(table, ["a"], "t")


@pytest.mark.parametrize("positions", [[0, 1, 1], [0, 1, 3], [1, 2, 3]])
def test_a_row_with_a_doubled_or_lost_token_is_refused(positions: list[int]) -> None:
    lines = likelihood({"a": [(0.5, True)] * 3}).to_pylist()
    for line, position in zip(lines, positions, strict=True):
        line["position"] = position
    with pytest.raises(UserError, match="row 'a' does not have each target position once"):
        teacher_forced(pa.Table.from_pylist(lines), ["a"], "t")
