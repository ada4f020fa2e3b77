"""Inverted hinge: golden value, its two ends, a rival that is certain."""

from __future__ import annotations

import pytest
import torch

from kit.slopes import Golden, assert_differences, assert_golden, forget_term, value_and_gradients
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

GOLDEN = Golden(1.17646965433, 0.112653676206, 0.0340974175393, -0.0175781009851)


def one(*logits: float, dtype: torch.dtype = torch.float64) -> Stream:
    """A row whose only target is the token 1."""
    states = torch.tensor([logits, [0.0] * len(logits)], dtype=dtype)
    return Stream([Row("row", torch.tensor([0, 1]), 1)], [states], lambda h: h)


def test_the_golden_value() -> None:
    term = forget_term("ihl")
    assert_golden(term, GOLDEN)
    assert_differences(term)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_lies_between_a_certain_token_and_a_certain_rival(dtype: torch.dtype) -> None:
    """2 where q_y = 1, 0 where a rival has all; neither has a slope."""
    for logits, expected in (((0.0, 90.0, 0.0), 2.0), ((90.0, 0.0, 0.0), 0.0)):
        value, (gradient,) = value_and_gradients(forget_term("ihl"), one(*logits, dtype=dtype))
        assert value.item() == pytest.approx(expected, abs=1e-7)
        assert gradient.abs().max() < 1e-7


def test_the_slope_by_hand() -> None:
    """q = 1/2, 1/4, 1/4: q_y (1_y - q) - q_r (1_r - q) with the rival 0."""
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log().tolist()
    value, (gradient,) = value_and_gradients(forget_term("ihl"), one(*logits))
    assert value.item() == pytest.approx(0.75)
    assert gradient[0].tolist() == pytest.approx([-0.375, 0.3125, 0.0625])


def test_logits_between_0_and_1_are_logits() -> None:
    """The released code takes such ones for probabilities: 1 + .9 - .4."""
    q = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64).softmax(-1)
    value = forget_term("ihl")(one(0.2, 0.9, 0.4))
    assert value.item() == pytest.approx((1 + q[1] - q[2]).item(), rel=1e-14)
    assert abs(value.item() - 1.5) > 0.2
