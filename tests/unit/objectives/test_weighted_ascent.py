"""WGA, SatImp, TNPO, WTNPO: golden values, limits, weights of sure and of forgotten tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit.preference import FORGET
from kit.slopes import (
    Golden,
    Term,
    assert_differences,
    assert_golden,
    forget_term,
    value_and_gradients,
    with_states,
)
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from reference import token_losses

LINES: list[tuple[str, dict[str, Any], Golden]] = [
    (
        "wga",
        {"beta": 0},
        Golden(-1.34905829931, 0.246045950171, 0.0558655324959, -0.0127119363943),
    ),
    (
        "wga",
        {"beta": 1},
        Golden(-0.287155799914, 0.0724593797146, 0.0277769130064, -0.00632050453283),
    ),
    (
        "wga",
        {"beta": 5},
        Golden(-0.0170835707871, 0.00784405528504, 0.00169763422623, -0.000386288599438),
    ),
    (
        "satimp",
        {"beta1": 5, "beta2": 1},
        Golden(-0.00691262862671, 0.00272370114163, 0.000853553160285, -0.000194221964742),
    ),
    (
        "satimp",
        {"beta1": 5, "beta2": 0.1},
        Golden(-0.0155505215244, 0.00701901163579, 0.0015848303071, -0.000360620603788),
    ),
    (
        "tnpo",
        {"beta": 4},
        Golden(-0.300066936193, 0.0734686849348, 0.0167529433684, -0.00381205263787),
    ),
    (
        "wtnpo",
        {"beta": 4, "alpha": 1.5},
        Golden(-0.0705677070395, 0.0246785191025, 0.00587355681914, -0.00133649993758),
    ),
]


def weights_of(key: str, over: dict[str, Any], rows: Stream) -> Tensor:
    """The weights of a method on these rows."""
    return methods.method(key, **over).token_weights(rows.token_nll().detach(), rows)


def ascent(rows: Stream) -> Tensor:
    """Gradient ascent on the mean over tokens."""
    return -rows.token_nll().mean()


@pytest.mark.parametrize(("key", "over", "golden"), LINES)
def test_the_golden_values(key: str, over: dict[str, Any], golden: Golden) -> None:
    """The central differences are those of the loss with its weights held."""
    assert_golden(forget_term(key, **over), golden)
    held = weights_of(key, over, FORGET.stream())
    assert_differences(
        forget_term(key, **over), frozen=lambda rows: -(held * rows.token_nll()).mean()
    )


def assert_same(one: Term, other: Term, rows: Stream) -> None:
    """Two terms have the same value and gradient."""
    (value, gradients), (expected, plain) = (value_and_gradients(t, rows) for t in (one, other))
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradients, plain, rtol=1e-12, atol=1e-15)


def test_without_powers_they_are_each_other_and_gradient_ascent() -> None:
    rows = FORGET.stream()
    untrained = with_states(rows, [r.reference for r in rows.rows if r.reference is not None])
    assert_same(forget_term("wga", beta=0), ascent, rows)
    assert_same(forget_term("satimp", beta1=3, beta2=0), forget_term("wga", beta=3), rows)
    assert_same(forget_term("wtnpo", alpha=0), forget_term("tnpo"), rows)
    assert_same(forget_term("tnpo"), ascent, untrained)


def test_no_gradient_goes_through_the_weights() -> None:
    """With one, x = .1 < e^-1 would turn the slope of WGA's x round."""
    states = torch.zeros(2, 10, dtype=torch.float64)  # q = 1/10
    row = Row("row", torch.tensor([0, 1]), 1)
    _, (gradient,) = value_and_gradients(
        forget_term("wga", beta=1), Stream([row], [states], lambda h: h)
    )
    assert gradient[0, 1].item() == pytest.approx(0.1 * 0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("height", [-1e4, -60.0, 0.0, 60.0, 1e4])
@pytest.mark.parametrize(("key", "over"), [line[:2] for line in LINES])
def test_sure_and_forgotten_tokens_weigh_a_number(
    key: str, over: dict[str, Any], height: float, dtype: torch.dtype
) -> None:
    states = torch.tensor([[0, height, 0], [0, 0, 0]], dtype=dtype)
    row = Row("row", torch.tensor([0, 1]), 1, reference_costs=torch.tensor([0.5], dtype=dtype))
    rows = Stream([row], [states], lambda h: h)
    value, (gradient,) = value_and_gradients(forget_term(key, **over), rows)
    weight = weights_of(key, over, rows)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert 0 <= weight.item() <= 2
    if height < 0 and over.get("beta") != 0:
        assert weight.item() < 1e-20
    if height > 0 and over.get("beta2"):
        assert weight.item() <= math.exp(-60 * over["beta2"]) * 3


def test_a_token_below_six_percent_still_counts_and_not_in_the_released_code() -> None:
    """Its denominator of x^4 + p^4 + 1e-5 leaves .04 of the weight at x = p = .03 (x^4 = 8e-7)."""
    x = torch.tensor([0.03, 0.056, 0.5], dtype=torch.float64)
    row = Row("row", torch.tensor([0, 1, 1, 1]), 1, reference_costs=-x.log())
    rest = ((1 - x) / 2).log()
    states = torch.stack([rest, x.log(), rest], dim=1)
    rows = Stream([row], [torch.cat([states, states[:1]])], lambda h: h)
    ours = weights_of("tnpo", {"beta": 4}, rows)
    assert ours.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-12)
    released = token_losses.tnpo_weights(x, x, 4.0)
    assert released.tolist() == pytest.approx([0.1394, 0.6630, 0.9999], abs=1e-4)
    far = replace(row, reference_costs=-(x / 2).log())
    assert (weights_of("tnpo", {"beta": 4}, replace(rows, rows=[far])) > 1.8).all()


@pytest.mark.parametrize(
    ("key", "name", "least"),
    [
        ("wga", "beta", "equal to 0"),
        ("satimp", "beta1", "equal to 0"),
        ("satimp", "beta2", "equal to 0"),
        ("tnpo", "beta", "than 0"),
        ("wtnpo", "beta", "than 0"),
        ("wtnpo", "alpha", "equal to 0"),
    ],
)
def test_a_negative_power_is_refused_by_name(key: str, name: str, least: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\n.*{least}"):
        methods.method(key, **{name: -0.5})


@pytest.mark.parametrize("key", ["tnpo", "wtnpo"])
def test_a_beta_of_zero_is_refused_where_it_ends_the_comparison(key: str) -> None:
    with pytest.raises(ValueError, match=r"beta\n.*greater than 0"):
        methods.method(key, beta=0)
