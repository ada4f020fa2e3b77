"""NPO: golden values, limits, and what the released code does on raw logits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kit import methods
from kit.preference import FORGET, RETAIN
from kit.slopes import (
    Golden,
    assert_differences,
    assert_golden,
    forget_term,
    value_and_gradients,
    with_states,
)
from palimpsest.engine.stream import Stream
from reference import token_losses

LINES = {
    (0.1, "row"): Golden(12.5110017691, 0.686472209997, 0.153709782946, -0.0349759305371),
    (0.5, "row"): Golden(1.61901404016, 0.491931029147, 0.101745050897, -0.0231516027443),
    (0.1, "token"): Golden(13.3642274215, 0.283365201969, 0.0410293539574, -0.00933603448326),
}


def ascent(rows: Stream) -> Tensor:
    """Gradient ascent on the costs of whole answers."""
    return -rows.row_sums(rows.token_nll()).mean()


def untrained(rows: Stream) -> Stream:
    """The same rows before the first step: the trained model is the subject."""
    return with_states(rows, [row.reference for row in rows.rows if row.reference is not None])


@pytest.mark.parametrize(("beta", "per"), LINES)
def test_the_golden_values(beta: float, per: str) -> None:
    term = forget_term("npo", beta=beta, per=per)
    assert_golden(term, LINES[beta, per])
    assert_differences(term)


def test_the_golden_totals_with_a_retain_term() -> None:
    streams = {"forget": FORGET.stream(), "retain": RETAIN.stream()}
    for kind, total in (("ce", 13.8848524625), ("kl", 12.5162158402)):
        terms = methods.method("npo", beta=0.1, retain_term=kind).loss(streams, {})
        assert sum(term.item() for term in terms.values()) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
@pytest.mark.parametrize("per", ["row", "token"])
def test_the_first_step_is_gradient_ascent_on_whole_answers(beta: float, per: str) -> None:
    """W_b = 1 whatever the rows: L = (2/beta) ln 2."""
    rows = untrained(FORGET.stream())
    value, gradients = value_and_gradients(forget_term("npo", beta=beta, per=per), rows)
    assert value.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    plain = ascent if per == "row" else lambda rows: -rows.nll().mean()
    for ours, expected in zip(gradients, value_and_gradients(plain, rows)[1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


def test_the_first_step_of_a_training_has_the_weight_one() -> None:
    """In fp32 to 1e-6, as the reference is computed by the functions of training."""
    made = methods.bench("npo", beta=0.1, dtype=torch.float32, moved=False)
    assert made.terms()["forget"].item() == pytest.approx(20 * math.log(2), rel=1e-6)


def test_without_a_brake_it_is_gradient_ascent() -> None:
    """beta -> 0: L - (2/beta) ln 2 -> -mean(s - s0), whose next term is beta/4 mean (s - s0)^2."""
    rows, term = FORGET.stream(), forget_term("npo", beta=1e-6)
    value, gradients = value_and_gradients(term, rows)
    rise = rows.row_sums(rows.token_nll() - rows.reference_costs())
    limit = (-rise + 1e-6 / 4 * rise.square()).mean().item()
    assert value.item() - 2e6 * math.log(2) == pytest.approx(limit, abs=1e-9)
    assert limit == pytest.approx(-1.40293989, abs=2e-6)  # published with rounding of 1e-6
    golden = Golden(None, 0.738137332262, 0.167596458301, -0.0381357775116)
    assert_golden(term, golden)
    for ours, plain in zip(gradients, value_and_gradients(ascent, rows)[1], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-12)


def test_a_row_is_braked_once_its_cost_has_risen() -> None:
    """The golden weights W_b; they are below 1 exactly where the cost is above the subject's."""
    rows = FORGET.stream()
    _, gradients = value_and_gradients(forget_term("npo", beta=0.1), rows)
    _, unbraked = value_and_gradients(ascent, rows)
    weights = [
        (ours.norm() / plain.norm()).item() for ours, plain in zip(gradients, unbraked, strict=True)
    ]
    assert weights == pytest.approx([0.91714142918, 0.924154926905, 0.948644336232], rel=1e-9)
    before = torch.stack([row.reference_costs.sum() for row in rows.rows])
    assert (rows.row_sums(rows.token_nll()) > before).all()
    swapped = replace(rows, rows=[replace(r, reference_costs=2 * c) for r, c in costs(rows)])
    _, gradients = value_and_gradients(forget_term("npo", beta=0.1), swapped)
    assert all(g.norm() < 2 * p.norm() for g, p in zip(gradients, unbraked, strict=True))
    assert all(g.norm() > p.norm() for g, p in zip(gradients, unbraked, strict=True))


def costs(rows: Stream) -> list[tuple]:
    """Each row with the cost of its tokens under the trained model."""
    values = rows.token_nll().split([len(row.response) for row in rows.rows])
    return list(zip(rows.rows, values, strict=True))


def test_a_number_added_to_all_logits_changes_nothing_but_the_released_loss_on_raw_ones() -> None:
    """The code for MUSE lowers logits instead of probabilities: it can lower all of them alike."""
    rows = FORGET.stream()
    raised = with_states(rows, [states + 1 for states in rows.hidden])
    term = forget_term("npo", beta=0.1)
    assert term(raised).item() == pytest.approx(term(rows).item(), rel=1e-14)
    subject = [FORGET.logits(b, FORGET.subject) for b in range(3)]
    released = [
        token_losses.npo_on_raw_logits([s[:-1] for s in states], subject, 0.1).item()
        for states in (rows.hidden, raised.hidden)
    ]
    assert released == pytest.approx([13.827084031594, 14.850033452773], rel=1e-12)


def test_per_token_with_the_same_cost_everywhere_is_simnpo() -> None:
    rows, delta = FORGET.stream(), 0.7
    level = [replace(r, reference_costs=torch.full_like(c, delta)) for r, c in costs(rows)]
    same = replace(rows, rows=level)
    ours = value_and_gradients(forget_term("npo", beta=2.0, per="token"), same)
    other = value_and_gradients(forget_term("simnpo", beta=2.0, delta=delta), rows)
    assert ours[0].item() == pytest.approx(other[0].item(), rel=1e-14)
    for one, two in zip(ours[1], other[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("key", ["npo", "simnpo"])
@pytest.mark.parametrize("beta", [0, -0.1])
def test_a_beta_that_is_not_positive_is_refused_by_name(key: str, beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta\n.*greater than 0"):
        methods.method(key, beta=beta)
