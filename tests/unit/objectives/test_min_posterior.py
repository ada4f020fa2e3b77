"""Minimum posterior: by hand, golden values, certain and forgotten tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit.by_hand import LN2, A, B, near, stream, terms
from kit.golden import IDS, LABELS, LOGITS, approx, shifted, value_and_gradients
from kit.preference import FORGET
from kit.slopes import (
    Golden,
    assert_differences,
    assert_golden,
    forget_term,
)
from kit.slopes import value_and_gradients as by_states
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.engine.stream import Stream
from reference import analysis360


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


ALONE = {"weights": {"forget": 1, "retain": 0}}


def test_the_minimum_posterior_has_its_golden_value_and_gradients() -> None:
    expected = (0.2015951146159065, -0.0008816157109337991, 0.0004528410153645676)
    posterior = methods.method("min_posterior", **ALONE)
    ours = value_and_gradients(lambda z: posterior.loss({"forget": shifted(z)}, {})["forget"])
    theirs = value_and_gradients(lambda z: analysis360.min_posterior(z, LABELS))
    assert ours == approx(expected)
    assert theirs == approx(expected)


@pytest.mark.parametrize("threshold", [-15.0, -1e30])
def test_a_token_below_the_threshold_weighs_nothing(threshold: float) -> None:
    sharp = LOGITS.clone()
    sharp[2] *= 10  # the label there is at log p = -57.4533
    assert sharp[2].log_softmax(-1)[IDS[3]].item() == pytest.approx(-57.4533, abs=1e-4)
    s = methods.method("min_posterior", threshold=threshold, **ALONE)
    found = s.loss({"forget": shifted(sharp)}, {})["forget"].item()
    assert found == approx(0.20114186297463466)
    assert analysis360.min_posterior(sharp, LABELS, threshold).item() == approx(found)


def test_posteriors_in_half_precision_need_no_lowest_number() -> None:
    """#17: the released label logit of -1e10 is -inf there; ours is computed in single precision,
    without a mask over the vocabulary."""
    states = torch.tensor([[0.0, 9, 2], [3, 1, 0], [0, 0, 0]], dtype=torch.float16)
    row = Row("half", torch.tensor([0, 1, 0]), 1)
    found = Stream([row], [states], lambda h: h).log_one_minus_p(-15.0)
    exact = Stream([row], [states.double()], lambda h: h).log_one_minus_p(-15.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    labels = torch.tensor([IGNORED, 1, 0])
    assert torch.tensor(analysis360.LOWEST).half() == -torch.inf
    theirs = analysis360.min_posterior(states, labels)
    assert theirs.dtype == torch.float16
    assert abs(theirs.item() + exact.mean().item()) > 1e-4


def test_an_all_ignored_batch_is_zero_and_small_values_are_not_rounded_away() -> None:
    """#18."""
    states = torch.tensor([[0.0, 9, 2], [3, 1, 0], [0, 0, 0]])
    ignored = torch.full((2,), IGNORED)
    nothing = torch.full((3,), IGNORED)
    assert analysis360.min_posterior(states, nothing).isnan()
    row = Row("none", torch.tensor([0, 1, 0]), 1, labels=ignored)
    s = methods.method("min_posterior", weights={"forget": 1, "retain": 0})
    found = s.loss({"forget": Stream([row], [states], lambda h: h)}, {})["forget"]
    assert found.item() == 0
    # -log(1 - p) with p = 1/217: bfloat16 logits, a value in single precision.
    low = torch.tensor([[5.375, 0, -20], [0, 0, 0]], dtype=torch.bfloat16)
    unlikely = Row("low", torch.tensor([0, 1]), 1)
    term = s.loss({"forget": Stream([unlikely], [low], lambda h: h)}, {})["forget"]
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(0.00462, rel=0.01)


CE_U: dict[str, Any] = {"threshold": -1e30, "weights": {"forget": 1, "retain": 0}}
"""Keys of the entry `ce_u` but for the skipped token."""


def test_it_is_ce_u_but_for_a_constant() -> None:
    """The golden lines of CE-U and of the minimum posterior without a threshold: one gradient."""
    slopes = (0.155990071373, 0.0552455786152, -0.0125708688354)
    term = forget_term("min_posterior", **CE_U)
    assert_golden(term, Golden(0.517424567789, *slopes))
    assert_differences(term)
    assert_golden(ce_u, Golden(2.34422494003, *slopes))
    torch.testing.assert_close(
        *(by_states(t, FORGET.stream())[1] for t in (term, ce_u)), rtol=1e-12, atol=1e-15
    )


def test_the_slope_of_the_label_is_its_probability_over_all_tokens() -> None:
    rows = FORGET.stream()
    _, gradients = by_states(forget_term("min_posterior", **CE_U), rows)
    found = [
        g[range(len(r.response)), r.response] for g, r in zip(gradients, rows.rows, strict=True)
    ]
    torch.testing.assert_close(torch.cat(found), (-rows.token_nll()).exp() / 9)


def test_a_skipped_token_leaves_the_divisor_too() -> None:
    term = forget_term("min_posterior", skip_tokens=1, **CE_U)
    assert_golden(term, Golden(None, 0.188825317569, 0, 0))
    assert_golden(lambda rows: ce_u(rows.after(1)), Golden(2.2898060189, 0.188825317569, 0, 0))
    rows = FORGET.stream()
    rest = torch.cat([v[1:] for v in rows.log_one_minus_p(-1e30).split([4, 2, 3])])
    assert term(rows).item() == pytest.approx(-rest.mean().item(), rel=1e-14)
    assert forget_term("min_posterior", skip_tokens=9)(rows).item() == 0


def ce_u(rows: Stream) -> Tensor:
    """CE-U as published, in plain torch: cross-entropy to softmax(z without y)."""
    costs = []
    for row, states in zip(rows.rows, rows.hidden, strict=True):
        for z, y in zip(states[:-1], row.targets, strict=True):
            if y != IGNORED:
                others = z.detach().clone()
                others[y] = -math.inf
                costs.append(-(others.softmax(-1) * z.log_softmax(-1)).sum())
    return torch.stack(costs).mean()
