"""Every loss by hand: three tokens, probabilities that are powers of 1/2.

The head is the identity, so a hidden state is the vector of logits, here log-probabilities:

    row A  0 | 1 2   P(1 | 0) = 1/2, P(2 | 0 1) = 1/4    l(A) = (ln 2 + 2 ln 2) / 2 = 1.5 ln 2
    row B  0 | 2     P(2 | 0) = 1/8                      l(B) = 3 ln 2

The mean over rows is 2.25 ln 2, the mean over tokens (1 + 2 + 3) / 3 = 2 ln 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods as methods
from palimpsest.engine.head import second_best
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.engine.stream import Stream
from palimpsest.objectives import (
    random_matching,
    rmu,
    stopping,
)

LN2 = math.log(2)
A = Row("A", torch.tensor([0, 1, 2]), 1)
B = Row("B", torch.tensor([0, 2]), 1)
LAST = [1 / 3] * 3
"""The prediction after the last token, which no loss may read."""


def logits(*distributions: list[float]) -> Tensor:
    return torch.tensor([*distributions, LAST], dtype=torch.float64).log()


AT_A = logits([1 / 4, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
AT_B = logits([5 / 8, 1 / 4, 1 / 8])


def stream(*rows: Row) -> Stream:
    states = {"A": AT_A, "B": AT_B}
    return Stream(list(rows), [states[row.id] for row in rows], lambda h: h)


def signed(row: Row, sign: int, reference: Tensor | None = None) -> Row:
    return replace(row, sign=sign, reference=reference)


def terms(
    key: str, streams: dict[str, Stream], fixed: dict[str, Tensor] | None = None, **over: Any
) -> dict[str, float]:
    """The terms in units of ln 2."""
    found = methods.method(key, **over).loss(streams, fixed or {})
    return {name: term.item() / LN2 for name, term in found.items()}


def near(**values: float) -> object:
    return pytest.approx(values, rel=1e-12, abs=1e-15)


# Cost of answers, up or down.


def test_finetune_is_the_mean_cost_of_the_retain_rows() -> None:
    assert terms("finetune", {"retain": stream(A, B)}) == near(retain=2.25)


def test_gradient_ascent_is_minus_the_mean_cost_of_the_forget_rows() -> None:
    """KnowUnDo 7 (4): GA == -CE."""
    assert terms("gradient_ascent", {"forget": stream(A, B)}) == near(forget=-2.25)
    assert terms("gradient_ascent", {"forget": stream(A)}) == near(forget=-1.5)


def test_task_vector_learns_the_forget_rows() -> None:
    assert terms("task_vector", {"forget": stream(A, B)}) == near(forget=2.25)


@pytest.mark.parametrize("key", ["random_labels", "adversarial_labels"])
def test_other_labels_are_predicted_from_the_true_context(key: str) -> None:
    """A: P(2 | 0) = 1/4 and P(0 | 0 1) = 1/2, B: P(1 | 0) = 1/4: (1.5 + 2) / 2."""
    relabelled = [
        replace(A, labels=torch.tensor([2, 0])),
        replace(B, labels=torch.tensor([1])),
    ]
    assert terms(key, {"forget": stream(*relabelled)}) == near(forget=1.75)


def test_the_best_wrong_guess_is_aligned_with_the_token_it_replaces() -> None:
    """KnowUnDo 7 (5): label[t] != y[t], and it is the argmax of the logits at t - 1."""
    at = logits([0.1, 0.5, 0.4], [0.3, 0.1, 0.6])[:2]  # predict tokens 1 and 2 of row A
    found = second_best(at, A.response, lambda h: h, torch.tensor([], dtype=torch.int64))
    # Of all but 1: 2 (0.4); of all but 2: 0 (0.3).
    assert found.tolist() == [2, 0]
    excluded = second_best(at, A.response, lambda h: h, torch.tensor([2]))
    assert excluded.tolist() == [0, 0]


# LLMU.


def llmu_streams() -> dict[str, Stream]:
    # The subject is at (1/2, 1/4, 1/4) where the model is at (1/4, 1/2, 1/4):
    # KL = 1/2 ln 2 + 1/4 ln 1/2 = 1/4 ln 2. At A's second position both agree: mean 1/8.
    subject = logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
    kept = replace(A, reference=subject)
    return {"forget": stream(A, B), "random": stream(A), "retain": stream(kept)}


def test_llmu_has_three_terms() -> None:
    weights = {"forget": 0.5, "random": 2, "retain": 3}
    assert terms("llmu", llmu_streams(), weights=weights) == near(
        forget=-0.5 * 2.25, random=2 * 1.5, retain=3 / 8
    )


def test_llmu_counts_answer_positions_alone_where_it_is_told_to() -> None:
    # Of the row 0 1 | 2 only the second position, where both agree, predicts an answer token.
    subject = logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
    row = Row("A", A.ids, 2, subject)
    for positions, expected in [("all", 1 / 8), ("answer", 0.0)]:
        found = terms("llmu", {"retain": stream(row)}, positions=positions)
        assert found == near(retain=expected)


@pytest.mark.parametrize(
    ("weights", "left"),
    [
        ({"forget": 1, "random": 0, "retain": 1}, {"forget", "retain"}),
        ({"forget": 1, "random": 1, "retain": 0}, {"forget", "random"}),
        ({"forget": 0, "random": 0, "retain": 1}, {"retain"}),
    ],
)
def test_llmu_leaves_terms_of_weight_zero_out(weights: dict[str, float], left: set[str]) -> None:
    s = methods.method("llmu", weights=weights)
    assert set(s.draws()) == left
    found = s.loss({name: llmu_streams()[name] for name in left}, {})
    assert set(found) == left


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (None, None),
        (1.4, None),  # the cost is 2 ln 2 = 1.386 per token
        (1.0, "the forget rows cost 1.386 > 1 nats per token"),
    ],
)
def test_the_stop_rule_looks_at_the_cost_and_not_at_its_negative(
    limit: float | None, why: str | None
) -> None:
    rows = stream(A, B)
    assert stopping.forgotten(rows, limit) is None, "nothing is known before the loss"
    rows.nll()
    assert stopping.forgotten(rows, limit) == why


# Mixtures.


@pytest.mark.parametrize("key", ["ga_gd", "ga_gd_ood"])
def test_ga_gd_is_the_mean_of_signed_row_costs(key: str) -> None:
    """KnowUnDo 7 (4): per-sequence mean x factor: (-1.5 + 3) / 2."""
    even = stream(signed(A, -1), signed(B, 1))
    found = terms(key, {"mixture": even})
    assert found == near(forget=-0.75, retain=1.5)


def test_ga_gd_divides_an_uneven_mixture_by_all_its_rows() -> None:
    """Two forget rows, one retain row, weights 2 and 1/2: (-2 (1.5 + 1.5) + 0.5 x 3) / 3."""
    uneven = stream(signed(A, -1), signed(A, -1), signed(B, 1))
    found = terms("ga_gd", {"mixture": uneven}, weights={"forget": 2, "retain": 0.5})
    assert found == near(forget=-2.0, retain=0.5)
    only = stream(signed(A, -1), signed(B, -1))
    assert terms("ga_gd", {"mixture": only}) == near(forget=-2.25, retain=0)


def test_memflex_weighs_by_the_released_factors() -> None:
    """(-0.4 x 1.5 + 2 x 3) / 2 = -0.3 + 3."""
    rows = stream(signed(A, -1), signed(B, 1))
    assert terms("memflex", {"mixture": rows}) == near(forget=-0.3, retain=3.0)
    unit = terms("memflex", {"mixture": rows}, weights={"forget": 1, "retain": 1})
    assert unit == terms("ga_gd", {"mixture": rows})


@pytest.mark.parametrize("key", ["ga_kl", "ga_kl_ood"])
def test_ga_kl_averages_over_the_rows_of_each_kind(key: str) -> None:
    """Forget rows A, A: -1.5. Retain row B at (5/8, 1/4, 1/8), the subject at (5/8, 1/8, 1/4):
    KL = 1/8 ln 1/2 + 1/4 ln 2 = 1/8 ln 2; with weight 2, 1/4."""
    kept = signed(B, 1, logits([5 / 8, 1 / 8, 1 / 4]))
    rows = stream(signed(A, -1), kept, signed(A, -1))
    found = terms(key, {"mixture": rows}, weights={"forget": 1, "retain": 2})
    assert found == near(forget=-1.5, retain=0.25)


@pytest.mark.parametrize(("sign", "left"), [(-1, "forget"), (1, "retain")])
def test_ga_kl_does_without_a_kind_that_the_step_lacks(sign: int, left: str) -> None:
    found = terms("ga_kl", {"mixture": stream(signed(A, sign, AT_A))})
    assert found == near(**{left: -1.5 if sign < 0 else 0.0})


@pytest.mark.parametrize("key", ["ga_gd", "ga_kl", "memflex"])
@pytest.mark.parametrize("side", ["forget", "retain"])
def test_a_mixture_refuses_the_weight_zero(key: str, side: str) -> None:
    """Half of its rows would run for nothing; gradient_ascent and finetune are what is meant."""
    with pytest.raises(ValueError, match=f"weights.{side}"):
        methods.method(key, weights={side: 0})


# Analysis360: means over tokens.


def test_max_entropy_towards_the_highest_entropy() -> None:
    """Both predictions of A have 1/2 ln 2 + 2 x 1/4 ln 4 = 1.5 ln 2; retain A, B cost 2 ln 2."""
    streams = {"forget": stream(A), "retain": stream(A, B)}
    found = terms("max_entropy", streams, weights={"forget": 2, "retain": 0.5})
    assert found == near(forget=-3.0, retain=1.0)


def test_max_entropy_towards_the_uniform_distribution() -> None:
    """KL(U || q) = -1/3 (ln 1/2 + 2 ln 1/4) - ln 3 = 5/3 ln 2 - ln 3."""
    found = terms("max_entropy", {"forget": stream(A)}, towards="uniform")
    assert found == near(forget=5 / 3 - math.log(3) / LN2)


def test_min_posterior_pushes_the_true_token_down() -> None:
    """A: -ln(1 - 1/2) = ln 2 and -ln(1 - 1/4) = 2 ln 2 - ln 3; the mean of both."""
    found = terms("min_posterior", {"forget": stream(A), "retain": stream(B)})
    assert found == near(forget=(3 - math.log(3) / LN2) / 2, retain=3.0)


def test_a_forgotten_token_adds_nothing_and_still_counts() -> None:
    """ln 1/4 = -1.39 is below -1, ln 1/2 = -0.69 is not: (ln 2 + 0) / 2."""
    found = terms("min_posterior", {"forget": stream(A)}, threshold=-1)
    assert found == near(forget=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("height", [3.0, 30.0, 100.0, 1e4])
def test_min_posterior_is_finite_where_the_true_token_is_certain(
    dtype: torch.dtype, height: float
) -> None:
    """Analysis360 7 (3): -log(1 - p) = height - ln 2 (+ log1p), gradient +p / n; in fp32 p is 1."""
    states = torch.tensor([[0, height, 0], [0, height, 0], [0, 0, 0]], dtype=dtype)
    states.requires_grad_(True)
    row = Row("sure", torch.tensor([0, 1, 1]), 1)
    s = methods.method("min_posterior")
    term = s.loss({"forget": Stream([row], [states], lambda h: h)}, {})["forget"]
    (gradient,) = torch.autograd.grad(term, states)
    p = 1 / (1 + 2 * math.exp(-height))
    assert p == 1 or height < 40
    expected = height - LN2 + math.log1p(2 * math.exp(-height))
    assert term.item() == pytest.approx(expected, rel=1e-6)
    assert gradient[0, 1].item() == pytest.approx(p / 2, rel=1e-6)
    # dL/dz_j = -p p_j / (1 - p) / n = -p / 2 / n for each of the two others.
    assert gradient[0, 0].item() == pytest.approx(-p / 4, rel=1e-5)


@pytest.mark.parametrize("is_signed", [False, True])
def test_random_matching_turns_towards_the_line_or_the_direction(is_signed: bool) -> None:
    """Two levels of three states against targets e1, e2, e1; the cosines stand below."""
    targets = torch.tensor([[1.0, 0], [0, 1], [1, 0]], dtype=torch.float64)
    one = torch.tensor([[3.0, 4], [0, -2], [-5, 0]], dtype=torch.float64)
    other = torch.tensor([[4.0, 3], [0, 7], [6, 8]], dtype=torch.float64)
    # level 1: |cos| .6, 1, 1; cos .6, -1, -1.   level 2: .8, 1, .6.
    plain = 1 - ((0.6 + 1 + 1) / 3 + (0.8 + 1 + 0.6) / 3) / 2
    direction = 1 - ((0.6 - 1 - 1) / 3 + (0.8 + 1 + 0.6) / 3) / 2
    found = random_matching.mismatch([one, other], targets, is_signed).item()
    assert found == pytest.approx(direction if is_signed else plain, rel=1e-14)


def test_random_matching_weighs_its_terms_and_looks_up_the_token_s_target() -> None:
    """Token 2 has the target e2, tokens 0 and 1 have e1; states e1 everywhere: |cos| 1, 1, 0."""
    hidden = torch.tensor([[1.0, 0]] * 3, dtype=torch.float64)
    forget = Stream([A], [hidden], lambda h: h, {-1: [hidden]})
    vectors = {
        "ids": torch.tensor([0, 1, 2]),
        "targets": torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64),
    }
    s = methods.method("random_matching", weights={"forget": 6, "retain": 2})
    found = s.loss({"forget": forget, "retain": stream(A, B)}, vectors)
    assert found["forget"].item() == pytest.approx(6 * 1 / 3, rel=1e-14)
    assert found["retain"].item() == pytest.approx(2 * 2 * LN2, rel=1e-14)


def rmu_streams() -> dict[str, Stream]:
    # The first token is left out; it is far away on purpose.
    forget = torch.tensor([[900.0, 900], [1, 2], [3, 4]], dtype=torch.float64)
    kept = torch.tensor([[900.0, 900], [1, 1], [1, 1]], dtype=torch.float64)
    before = torch.tensor([[0.0, 0], [1, 3], [1, 1]], dtype=torch.float64)
    return {
        "forget": Stream([A], [], lambda h: h, {2: [forget]}),
        "retain": Stream([A], [], lambda h: h, {2: [kept]}, {2: [before]}),
    }


def test_rmu_steers_the_forget_states_and_holds_the_retain_states() -> None:
    """c u = (3, 0): ((-2)^2 + 2^2 + 0 + 4^2) / 4 = 6; retain: 2^2 / 4 = 1, times alpha 10."""
    vectors = {"control_vector": torch.tensor([3.0, 0])}
    s = methods.method("rmu", alpha=10)
    found = {n: t.item() for n, t in s.loss(rmu_streams(), vectors).items()}
    assert found == {"forget": 6.0, "retain": 10.0}


def test_rmu_without_a_retain_weight_reads_no_retain_rows() -> None:
    s = methods.method("rmu", alpha=0)
    assert set(s.draws()) == {"forget"}
    assert s.reads().untrained == ()


def test_the_control_vector_is_fixed_or_as_long_as_the_states_make_it() -> None:
    """States (1, 2), (3, 4) without the first token: adaptive c = 5 x (sqrt 5 + 5) / 2."""
    fixed = methods.method("rmu", coefficient={"value": 6.5})
    adaptive = methods.method("rmu", coefficient={"value": None, "adaptive": 5})
    for s, c in [(fixed, 6.5), (adaptive, 2.5 * (math.sqrt(5) + 5))]:
        made = s.prepare(rmu_streams, {}, seed=3)
        assert made["coefficient"].item() == pytest.approx(c, rel=1e-7)
        assert made["control_vector"].norm().item() == pytest.approx(c, rel=1e-6)
        assert (made["control_vector"] > 0).all(), "the positive orthant"


def test_a_row_shorter_than_what_is_skipped_keeps_its_last_token() -> None:
    states = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])]
    assert rmu.counted(states, 5).tolist() == [[2.0], [3.0]]
    assert rmu.counted(states, 0).tolist() == [[1.0], [2.0], [3.0]]


# Nothing to predict.


@pytest.mark.parametrize("key", [k for k in methods.ALGORITHMS if k != "rmu"])
def test_a_batch_whose_labels_are_all_ignored_costs_nothing(key: str) -> None:
    """Analysis360 7 (3): 0, not NaN, with gradients that are 0, not missing."""
    states = AT_A.clone().requires_grad_(True)
    row = replace(A, labels=torch.full((2,), IGNORED), reference=AT_A.flip(1))
    made = {
        "forget": [row],
        "random": [row],
        "retain": [row],
        "mixture": [replace(row, sign=-1), row],
    }
    over: dict[str, Any] = {"llmu": {"positions": "answer"}}.get(key, {})
    if key == "sku":
        over = {"preservation": {"positions": "answer"}}
    s = methods.method(key, **over)
    streams = {
        name: Stream(made[name], [states] * len(made[name]), lambda h: h) for name in s.draws()
    }
    if key == "random_matching":  # needs no label: its forget term is left alone here
        s = methods.method(key, weights={"forget": 0, "retain": 1})
        del streams["forget"]
    found = s.loss(streams, {})
    assert found
    assert {name: term.item() for name, term in found.items()} == dict.fromkeys(found, 0.0)
    total = torch.stack(list(found.values())).sum()
    (gradient,) = torch.autograd.grad(total, states)
    assert gradient.abs().max() == 0


def test_kl_terms_of_ignored_labels_are_zero_too() -> None:
    states = AT_A.clone().requires_grad_(True)
    row = replace(A, labels=torch.full((2,), IGNORED), reference=AT_A.flip(1))
    s = methods.method("max_entropy", retain_term="kl")
    rows = Stream([row], [states], lambda h: h)
    found = s.loss({"forget": rows, "retain": rows}, {})
    assert found["retain"].item() == 0


def test_ignored_labels_leave_the_others_as_they_are() -> None:
    """Of A's answer only the second token counts: 2 ln 2; B as ever: (2 + 3) / 2 over rows."""
    partly = replace(A, labels=torch.tensor([IGNORED, 2]))
    rows = stream(partly, B)
    assert (rows.nll() / LN2).tolist() == pytest.approx([2.0, 3.0])
    assert (rows.token_nll() / LN2).tolist() == pytest.approx([2.0, 3.0])
    assert rows.cost is not None
    assert rows.cost.item() == pytest.approx(2.5 * LN2)
    known = replace(partly, reference=logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4]))
    assert stream(known).kl("answer").tolist() == pytest.approx([0.0], abs=1e-15)
    assert len(stream(known).kl("all")) == 2


def test_the_cost_of_a_mixture_is_that_of_its_kept_rows() -> None:
    """What is unlearned may cost anything without looking like divergence."""
    rows = stream(signed(A, -1), signed(B, 1))
    rows.nll()
    assert rows.cost is not None
    assert rows.cost.item() == pytest.approx(3 * LN2)


@pytest.mark.parametrize("key", methods.ALGORITHMS)
def test_each_algorithm_refuses_the_settings_of_another(key: str) -> None:
    with pytest.raises(ValueError, match="steering"):
        methods.method(key, steering=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_stream_without_targets_here_has_values_of_the_type_of_others(dtype: torch.dtype) -> None:
    """Where several processes train, what they have is put together."""
    row = replace(A, labels=torch.full_like(A.response, IGNORED))
    states = torch.ones(len(A), 3, dtype=dtype, requires_grad=True)
    values = Stream([row], [states[:0]], lambda h: h).token_nll()
    assert values.dtype is torch.promote_types(dtype, torch.float32)
    assert values.requires_grad
