"""SimNPO: golden values, the margin's three names, limits, lengths of rows."""

from __future__ import annotations

import math

import pytest
import torch

from kit.preference import FORGET
from kit.slopes import (
    Golden,
    assert_differences,
    assert_golden,
    forget_term,
    value_and_gradients,
    with_states,
)
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from reference import token_losses

LINES = {
    (4.5, 0.0): Golden(0.00624528672389, 0.00685889742283, 0.00291374069975, -0.000663007847415),
    (2.5, 0.0): Golden(0.0553963494427, 0.0305025394277, 0.0114210266688, -0.00259880033512),
    (0.7, 1.0): Golden(1.59502580292, 0.194788132629, 0.0457222136141, -0.0104038723933),
    # The paper's gamma 1 at beta 4.5.
    (4.5, 1 / 4.5): Golden(0.0165488965214, 0.0176555824209, 0.00747383533425, -0.00170063570767),
}


@pytest.mark.parametrize(("beta", "delta"), LINES)
def test_the_golden_values(beta: float, delta: float) -> None:
    term = forget_term("simnpo", beta=beta, delta=delta)
    assert_golden(term, LINES[beta, delta])
    assert_differences(term)


def test_the_margin_of_the_paper_is_not_that_of_the_code() -> None:
    """A gamma of 1 at beta 4.5 is another loss in each, and ours by delta."""
    rows, beta, gamma = FORGET.stream(), 4.5, 1.0
    paper = 2 / beta * torch.nn.functional.softplus(-(beta * rows.nll() - gamma)).mean()
    code = 2 / beta * torch.nn.functional.softplus(-beta * (rows.nll() - gamma)).mean()
    found = [forget_term("simnpo", beta=beta, delta=d)(rows) for d in (gamma / beta, gamma)]
    torch.testing.assert_close(torch.stack(found), torch.stack([paper, code]), rtol=1e-12, atol=0)
    assert code > 15 * paper


def test_without_a_brake_it_is_gradient_ascent_on_row_means() -> None:
    rows = FORGET.stream()
    _, gradients = value_and_gradients(forget_term("simnpo", beta=1e-7), rows)
    _, plain = value_and_gradients(lambda rows: -rows.nll().mean(), rows)
    for ours, expected in zip(gradients, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-12)
    assert_golden(
        lambda rows: -rows.nll().mean(),
        Golden(-1.59247916165, 0.292591462151, 0.0418991493719, -0.00953395229576),
    )


def test_one_token_rows_are_those_of_npo_with_a_constant_reference() -> None:
    states = [torch.tensor([[0.3, b, 1.0], [0, 0, 0]], dtype=torch.float64) for b in (0.5, 2.0)]
    delta = 0.4
    cost = torch.tensor([delta], dtype=torch.float64)
    rows = [Row(str(b), torch.tensor([0, 1]), 1, reference_costs=cost) for b in range(2)]
    stream = Stream(rows, states, lambda h: h)
    ours = forget_term("simnpo", beta=1.5, delta=delta)(stream)
    assert ours.item() == pytest.approx(forget_term("npo", beta=1.5)(stream).item(), rel=1e-14)


def test_it_stops_near_a_probability_of_one_over_e() -> None:
    """beta 4.5, delta 0: at one nat a token the weight is 2 sigmoid(-4.5) = .022."""
    states = torch.zeros(3, 4, dtype=torch.float64)
    states[:2, 1] = math.log(3 / (math.e - 1))  # q = 1/e
    row = Row("row", torch.tensor([0, 1, 1]), 1)
    stream = Stream([row], [states], lambda h: h)
    assert stream.nll().item() == pytest.approx(1.0)
    _, (ours,) = value_and_gradients(forget_term("simnpo"), stream)
    _, (plain,) = value_and_gradients(lambda rows: -rows.nll().mean(), stream)
    assert (ours.norm() / plain.norm()).item() == pytest.approx(2 / (1 + math.exp(4.5)))
    assert 2 / (1 + math.exp(4.5)) == pytest.approx(0.022, abs=1e-4)


def test_the_divisor_is_the_number_of_targets_and_in_the_released_code_one_more() -> None:
    rows = FORGET.stream()
    costs = rows.token_nll().split([4, 2, 3])
    released = token_losses.simnpo_one_token_too_long(costs, 4.5)
    assert released.item() == pytest.approx(0.013512221603, rel=1e-10)
    ours = forget_term("simnpo")(rows)
    assert ours.item() == pytest.approx(0.00624528672389, rel=1e-9)


def test_a_number_added_to_all_logits_changes_nothing() -> None:
    rows, term = FORGET.stream(), forget_term("simnpo")
    raised = with_states(rows, [states + 1 for states in rows.hidden])
    assert term(raised).item() == pytest.approx(term(rows).item(), rel=1e-13)
