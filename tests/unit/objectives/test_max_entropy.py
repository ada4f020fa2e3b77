"""Maximum entropy: by hand, golden values, bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kit import golden, methods
from kit.by_hand import LN2, A, B, near, stream, terms
from kit.golden import LOGITS, REAL, approx, unshifted, value_and_gradients
from palimpsest.engine.kernels import head as heads
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from reference import analysis360


def test_max_entropy_towards_the_highest_entropy() -> None:
    """Both predictions of A have 1/2 ln 2 + 2 x 1/4 ln 4 = 1.5 ln 2; retain A, B cost 2 ln 2."""
    streams = {"forget": stream(A), "retain": stream(A, B)}
    found = terms("max_entropy", streams, weights={"forget": 2, "retain": 0.5})
    assert found == near(forget=-3.0, retain=1.0)


def test_max_entropy_towards_the_uniform_distribution() -> None:
    """KL(U || q) = -1/3 (ln 1/2 + 2 ln 1/4) - ln 3 = 5/3 ln 2 - ln 3."""
    found = terms("max_entropy", {"forget": stream(A)}, towards="uniform")
    assert found == near(forget=5 / 3 - math.log(3) / LN2)


ALONE = {"weights": {"forget": 1, "retain": 0}}


ENTROPY = methods.method("max_entropy", **ALONE)


UNIFORM = methods.method("max_entropy", towards="uniform", **ALONE)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(
            lambda z: ENTROPY.loss({"forget": unshifted(z)}, {})["forget"],
            (-1.5129721086827235, -0.006008026241099778, -0.002298170730952924),
            id="max_entropy",
        ),
        pytest.param(
            lambda z: (
                ENTROPY.loss({"forget": unshifted(z)}, {})["forget"] + math.log(golden.VOCABULARY)
            ),
            (0.8849231641156472, -0.006008026241099778, -0.002298170730952924),
            id="KL(p to U)",
        ),
        pytest.param(
            lambda z: UNIFORM.loss({"forget": unshifted(z)}, {})["forget"],
            (1.5764041038725565, -0.020943278994191617, -0.02227443171190816),
            id="KL(U to p)",
        ),
        pytest.param(
            analysis360.max_entropy,
            (-1.561598270585164, -0.004005350827399851, -0.0015321138206352816),
            id="released",
        ),
    ],
)
def test_maximum_entropy_has_its_golden_values_and_gradients(
    loss: Callable[[Tensor], Tensor], expected: Sequence[float]
) -> None:
    assert value_and_gradients(loss) == approx(expected)


def test_released_entropy_counts_pads_and_ours_does_not() -> None:
    """Other logits at the two pads change theirs alone."""
    other = LOGITS.clone()
    other[:REAL] += torch.linspace(0, 3, golden.VOCABULARY, dtype=torch.float64)
    ours = [ENTROPY.loss({"forget": unshifted(z)}, {})["forget"] for z in (LOGITS, other)]
    assert ours[0].item() == ours[1].item()
    assert abs(analysis360.max_entropy(LOGITS) - analysis360.max_entropy(other)) > 0.05
    real = analysis360.max_entropy(LOGITS[REAL:])
    assert real.item() == approx(ours[0].item())


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_no_golden_value(chunk: int) -> None:
    rows = LOGITS[REAL:]
    found = heads.entropy(rows, lambda h: h, chunk).mean().item()
    assert -found == approx(-1.5129721086827235)
    assert heads.kl_from_uniform(rows, lambda h: h, chunk).mean().item() == approx(
        1.5764041038725565
    )


def test_entropy_loss_is_bounded_and_flat_at_the_uniform_distribution() -> None:
    """Analysis360 7 (1)."""
    s = methods.method("max_entropy", weights={"forget": 1, "retain": 0})
    row = Row("r", torch.tensor([1, 2, 3]), 1)

    def loss(states: Tensor) -> Tensor:
        streams = {"forget": Stream([row], [states], lambda h: h)}
        return s.loss(streams, {})["forget"]

    random = torch.Generator().manual_seed(0)
    for size in (0.1, 1.0, 10.0, 1e3):
        states = size * torch.randn(3, 50, generator=random, dtype=torch.float64)
        assert -math.log(50) <= loss(states).item() <= 0
    constant = torch.full((3, 50), 7.0, dtype=torch.float64, requires_grad=True)
    value = loss(constant)
    assert value.item() == pytest.approx(-math.log(50), abs=1e-14)
    assert torch.autograd.grad(value, constant)[0].abs().max() < 1e-15
