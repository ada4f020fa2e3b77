"""UNDIAL: golden values, limits, answer positions alone."""

from __future__ import annotations

import pytest
import torch

from kit import methods
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
    0: (
        Golden(1.50292176996, 0.0721319779923, -0.0300017229225, 0.00805670889365),
        1.39722587016,
    ),
    3: (
        Golden(2.20943121831, 0.12187584641, 0.0395826687376, -0.00446778687933),
        1.91282990837,
    ),
    10: (
        Golden(2.37607616949, 0.159783010711, 0.0552289546035, -0.00728396212373),
        1.80982720538,
    ),
    30: (
        Golden(2.37625797721, 0.159824839188, 0.0552455786152, -0.00728695427986),
        1.80909217453,
    ),
}
"""beta -> its line, and the least value: the mean entropy of the target."""


def untrained() -> Stream:
    """The golden rows before the first step: the trained model is the subject."""
    rows = FORGET.stream()
    return with_states(rows, [r.reference for r in rows.rows if r.reference is not None])


@pytest.mark.parametrize("beta", LINES)
def test_the_golden_values(beta: float) -> None:
    term = forget_term("undial", beta=beta)
    assert_golden(term, LINES[beta][0])
    assert_differences(term)


@pytest.mark.parametrize("beta", LINES)
def test_the_least_value_is_the_entropy_of_the_target(beta: float) -> None:
    """Where the trained logits are the lowered ones the loss has its golden floor and no slope."""
    rows = untrained()
    lowered = []
    for row, states in zip(rows.rows, rows.hidden, strict=True):
        at = torch.arange(len(row.response)), row.response
        moved = states.clone()
        moved[at] -= beta
        lowered.append(moved)
    value, gradients = value_and_gradients(
        forget_term("undial", beta=beta), with_states(rows, lowered)
    )
    assert value.item() == pytest.approx(LINES[beta][1], rel=1e-10)
    assert max(g.abs().max() for g in gradients) < 1e-15


def test_at_the_start_beta_decides_between_rest_and_the_minimum_posterior() -> None:
    """q = p. beta 0: no slope; beta without end: the slope q - softmax(z without y)."""
    rows = untrained()
    _, at_rest = value_and_gradients(forget_term("undial", beta=0), rows)
    assert max(g.abs().max() for g in at_rest) < 1e-15
    _, without = value_and_gradients(forget_term("undial", beta=80), rows)
    _, posterior = value_and_gradients(forget_term("min_posterior", threshold=-1e30), rows)
    torch.testing.assert_close(without, posterior, rtol=1e-10, atol=1e-14)


def test_prompt_and_padding_do_not_count_and_do_in_the_released_code() -> None:
    """There the label -100 of such a position is taken for the token V - 100, which is lowered."""
    torch.manual_seed(0)
    vocabulary, beta = 120, 10.0
    trained, subject = torch.randn(2, 7, vocabulary, dtype=torch.float64).unbind()
    labels, answer = torch.tensor([-100, -100, 5, 9, 30, -100, -100]), slice(2, 5)
    diluted = token_losses.undial_over_all_positions(trained, subject, labels, beta)
    meant = token_losses.undial_over_all_positions(
        trained[answer], subject[answer], labels[answer], beta
    )
    assert abs(diluted - meant) > 0.02, "four of seven positions are no answer"
    moved = subject.clone()
    moved[~(labels >= 0), vocabulary - 100] += 1
    elsewhere = token_losses.undial_over_all_positions(trained, moved, labels, beta)
    unlowered = token_losses.undial_over_all_positions(trained, moved, labels, 0.0)
    assert elsewhere != unlowered
    row = Row("row", torch.tensor([1, 2, 3, 5, 9, 30]), 3, reference=subject[:6])
    ours = forget_term("undial", beta=beta)(Stream([row], [trained[:6]], lambda h: h))
    assert ours.item() == pytest.approx(meant.item(), rel=1e-12)


def test_a_small_vocabulary_has_no_entry_for_the_released_index() -> None:
    rows = FORGET.stream()
    labels = torch.tensor([-100, 1])
    with pytest.raises(IndexError):
        token_losses.undial_over_all_positions(rows.hidden[0][:2], rows.hidden[0][:2], labels, 3.0)


def test_a_negative_beta_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"beta\n.*equal to 0"):
        methods.method("undial", beta=-1)
