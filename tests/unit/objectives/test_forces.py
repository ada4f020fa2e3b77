"""The page docs/methods.md: the force of each loss on the label's logit, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kit.slopes import forget_term, value_and_gradients
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

VOCABULARY = 5
KNOWN = 0.6
"""The subject's probability of the token."""

BETA, ALPHA, DELTA = 3.0, 1.5, 0.4


def logits(x: float) -> torch.Tensor:
    """Of a token 1 with probability x; the others share the rest unevenly."""
    others = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64) * (1 - x)
    return torch.cat([others[:1], torch.tensor([x], dtype=torch.float64), others[1:]]).log()


def at(x: float) -> Stream:
    """A row of one token that the trained model gives the probability x."""
    last = torch.zeros(VOCABULARY, dtype=torch.float64)
    cost = torch.tensor([-math.log(KNOWN)], dtype=torch.float64)
    known = torch.stack([logits(KNOWN), last])
    row = Row("row", torch.tensor([0, 1]), 1, known, reference_costs=cost)
    return Stream([row], [torch.stack([logits(x), last])], lambda h: h)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def brake(x: float) -> float:
    """2 x^beta / (x^beta + p^beta)."""
    return 2 * x**BETA / (x**BETA + KNOWN**BETA)


def lowered() -> float:
    """The subject's probability of the token after its logit was lowered by beta."""
    return KNOWN * math.exp(-BETA) / (1 - KNOWN * (1 - math.exp(-BETA)))


FORCES: list[tuple[str, dict[str, Any], Callable[[float], float]]] = [
    ("wga", {"beta": 0}, lambda x: -(1 - x)),
    ("npo", {"beta": BETA}, lambda x: -2 * sigmoid(-BETA * math.log(KNOWN / x)) * (1 - x)),
    ("simnpo", {"beta": BETA, "delta": DELTA},
     lambda x: -2 * sigmoid(-BETA * (-math.log(x) - DELTA)) * (1 - x)),
    ("wga", {"beta": BETA}, lambda x: -(x**BETA) * (1 - x)),
    ("satimp", {"beta1": BETA, "beta2": 0.5}, lambda x: -(x**BETA) * (1 - x) ** 1.5),
    ("tnpo", {"beta": BETA}, lambda x: -brake(x) * (1 - x)),
    ("wtnpo", {"beta": BETA, "alpha": ALPHA}, lambda x: -brake(x) * x**ALPHA * (1 - x)),
    ("min_posterior", {}, lambda x: -x),
    ("undial", {"beta": BETA}, lambda x: -(x - lowered())),
    ("unilogit", {}, lambda x: -(x - 1 / VOCABULARY)),
    ("max_entropy", {"towards": "uniform"}, lambda x: -(x - 1 / VOCABULARY)),
    ("ihl", {}, lambda x: -x * (1 - x + 0.4 * (1 - x))),
    ("jensun", {}, lambda u: u * (1 - u) * math.log((1 + u) / u) / 2),
]  # fmt: skip


@pytest.mark.parametrize("x", [1e-6, 0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize(("key", "over", "force"), FORCES)
def test_a_loss_pushes_the_label_as_the_page_says(
    key: str, over: dict[str, Any], force: Callable[[float], float], x: float
) -> None:
    _, (slope,) = value_and_gradients(forget_term(key, **over), at(x))
    assert -slope[0, 1].item() == pytest.approx(force(x), rel=1e-9, abs=1e-15)
