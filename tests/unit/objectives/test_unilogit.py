"""Unilogit: golden value, where it rests, certain tokens."""

from __future__ import annotations

import math

import pytest
import torch

from kit.by_hand import A
from kit.preference import FORGET, VOCABULARY
from kit.slopes import (
    Golden,
    assert_differences,
    assert_golden,
    forget_term,
    value_and_gradients,
    with_states,
)
from palimpsest.engine.stream import Stream

GOLDEN = Golden(2.25375524542, 0.128740098541, 0.0451445685142, -0.0102724319963)


def test_the_golden_value() -> None:
    """The central differences are those of the loss with its target held."""
    rows = FORGET.stream()
    targets = []
    for row, states in zip(rows.rows, rows.hidden, strict=True):
        q = states[:-1].softmax(-1)
        at = torch.arange(len(row.response)), row.response
        target = q * (1 - 1 / VOCABULARY) / (1 - q[at])[:, None]
        target[at] = 1 / VOCABULARY
        targets.append(target)

    def held(rows: Stream) -> torch.Tensor:
        costs = [
            -(u * z[:-1].log_softmax(-1)).sum(-1) for u, z in zip(targets, rows.hidden, strict=True)
        ]
        return torch.cat(costs).mean()

    assert_golden(forget_term("unilogit"), GOLDEN)
    assert held(rows).item() == pytest.approx(GOLDEN.value, rel=1e-9)
    assert_differences(forget_term("unilogit"), frozen=held)


def test_it_rests_where_the_token_is_a_blind_guess() -> None:
    """q_y = 1/V, whatever the others are."""
    rows = FORGET.stream()
    level = []
    for row, states in zip(rows.rows, rows.hidden, strict=True):
        at = torch.arange(len(row.response)), row.response
        moved = states.clone()
        moved[at] = -math.inf
        moved[at] = moved[:-1].logsumexp(-1) - math.log(VOCABULARY - 1)
        level.append(moved)
    _, gradients = value_and_gradients(forget_term("unilogit"), with_states(rows, level))
    assert max(g.abs().max() for g in gradients) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_token_has_the_full_slope(dtype: torch.dtype) -> None:
    """q_y rounds to 1 in fp32, and the target of the others is exact: (1 - 1/V) q_v / (1 - q_y)."""
    states = torch.tensor([[0.0, 90.0, 1.0], [0.0, 0.0, 90.0], [0.0, 0.0, 0.0]], dtype=dtype)
    _, (gradient,) = value_and_gradients(
        forget_term("unilogit"), Stream([A], [states], lambda h: h)
    )
    e = math.e
    expected = [-(2 / 3) / (1 + e) / 2, (1 - 1 / 3) / 2, -(2 / 3) * e / (1 + e) / 2]
    assert gradient[0].tolist() == pytest.approx(expected, rel=1e-6)
