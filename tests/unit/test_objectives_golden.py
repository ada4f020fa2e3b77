"""Golden values of the four Analysis360 losses: ours, and what the released code gives.

Inputs are those of the specification: 6 positions, the first two of them pads, 11 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kit import methods as methods
from palimpsest.engine import head as heads
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.objectives import random_matching, rmu
from reference import analysis360 as released

POSITIONS, VOCABULARY, WIDTH = 6, 11, 5
IDS = [2, 2, 7, 1, 10, 4]
REAL = 2
"""First position that is no pad."""


def grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return (
        torch.arange(rows, dtype=torch.float64)[:, None],
        torch.arange(columns, dtype=torch.float64)[None],
    )


T, V = grid(POSITIONS, VOCABULARY)
LOGITS = 3 * (1.7 * T + 0.9 * V).sin()
LABELS = torch.tensor([-100] * REAL + IDS[REAL:])
STATES = [
    (0.3 * (level + 1) * grid(6, 5)[0] + 0.8 * grid(6, 5)[1] + 0.2 * level).cos()
    for level in range(4)
]
TABLE = (2.3 * grid(11, 5)[0] + 1.1 * grid(11, 5)[1]).sin()
CONTROL = torch.arange(1, WIDTH + 1, dtype=torch.float64)
CONTROL = 2 * CONTROL / CONTROL.norm()


def approx(value: float | Sequence[float]) -> object:
    return pytest.approx(value, abs=1e-9, rel=0)


def unshifted(logits: Tensor) -> Stream:
    """A stream whose targets stand behind positions 2 to 5."""
    row = Row("golden", torch.tensor([*IDS, 0]), REAL + 1)
    return Stream([row], [torch.cat([logits, logits[:1]])], lambda states: states)


def shifted(logits: Tensor) -> Stream:
    """A stream whose targets are the labels: positions 1 to 4 predict them."""
    return Stream([Row("golden", torch.tensor(IDS), REAL)], [logits], lambda states: states)


def value_and_gradients(
    function: Callable[[Tensor], Tensor], logits: Tensor = LOGITS
) -> tuple[float, float, float]:
    """Value, dL/dz[3,1], dL/dz[2,1]."""
    leaf = logits.clone().requires_grad_(True)
    value = function(leaf)
    assert value.dtype == torch.float64
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient[3, 1].item(), gradient[2, 1].item()


ALONE = {"weights": {"forget": 1, "retain": 0}}
ENTROPY = methods.method("max_entropy", **ALONE)
UNIFORM = methods.method("max_entropy", towards="uniform", **ALONE)
POSTERIOR = methods.method("min_posterior", **ALONE)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(
            lambda z: ENTROPY.loss({"forget": unshifted(z)}, {})["forget"],
            (-1.5129721086827235, -0.006008026241099778, -0.002298170730952924),
            id="max_entropy",
        ),
        pytest.param(
            lambda z: ENTROPY.loss({"forget": unshifted(z)}, {})["forget"] + math.log(VOCABULARY),
            (0.8849231641156472, -0.006008026241099778, -0.002298170730952924),
            id="KL(p to U)",
        ),
        pytest.param(
            lambda z: UNIFORM.loss({"forget": unshifted(z)}, {})["forget"],
            (1.5764041038725565, -0.020943278994191617, -0.02227443171190816),
            id="KL(U to p)",
        ),
        pytest.param(
            lambda z: shifted(z).token_nll().mean(),
            (3.806388488809528, 0.0017839937330811106, -0.24954715898463542),
            id="cross-entropy",
        ),
        pytest.param(
            lambda z: POSTERIOR.loss({"forget": shifted(z)}, {})["forget"],
            (0.2015951146159065, -0.0008816157109337991, 0.0004528410153645676),
            id="min_posterior",
        ),
    ],
)
def test_ours_has_the_golden_value_and_gradients(
    loss: Callable[[Tensor], Tensor], expected: Sequence[float]
) -> None:
    assert value_and_gradients(loss) == approx(expected)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(
            released.max_entropy,
            (-1.561598270585164, -0.004005350827399851, -0.0015321138206352816),
            id="max_entropy",
        ),
        pytest.param(
            lambda z: released.cross_entropy(z, LABELS),
            (3.806388488809528, 0.0017839937330811106, -0.24954715898463542),
            id="cross-entropy",
        ),
        pytest.param(
            lambda z: released.min_posterior(z, LABELS),
            (0.2015951146159065, -0.0008816157109337991, 0.0004528410153645676),
            id="min_posterior",
        ),
    ],
)
def test_the_restated_released_loss_has_its_golden_value(
    loss: Callable[[Tensor], Tensor], expected: Sequence[float]
) -> None:
    assert value_and_gradients(loss) == approx(expected)


def test_released_entropy_counts_pads_and_ours_does_not() -> None:
    """Other logits at the two pads change theirs alone."""
    other = LOGITS.clone()
    other[:REAL] += torch.linspace(0, 3, VOCABULARY, dtype=torch.float64)
    ours = [ENTROPY.loss({"forget": unshifted(z)}, {})["forget"] for z in (LOGITS, other)]
    assert ours[0].item() == ours[1].item()
    assert abs(released.max_entropy(LOGITS) - released.max_entropy(other)) > 0.05
    real = released.max_entropy(LOGITS[REAL:])
    assert real.item() == approx(ours[0].item())


@pytest.mark.parametrize("threshold", [-15.0, -1e30])
def test_a_token_below_the_threshold_weighs_nothing(threshold: float) -> None:
    sharp = LOGITS.clone()
    sharp[2] *= 10  # the label there is at log p = -57.4533
    assert sharp[2].log_softmax(-1)[IDS[3]].item() == pytest.approx(-57.4533, abs=1e-4)
    s = methods.method("min_posterior", threshold=threshold, **ALONE)
    found = s.loss({"forget": shifted(sharp)}, {})["forget"].item()
    assert found == approx(0.20114186297463466)
    assert released.min_posterior(sharp, LABELS, threshold).item() == approx(found)


def test_random_matching_has_its_golden_values() -> None:
    ids = torch.tensor(IDS)
    ours = random_matching.mismatch([h[REAL:] for h in STATES], TABLE[ids[REAL:]])
    assert ours.dtype == torch.float64
    assert ours.item() == approx(0.3925657050283859)
    levels = [random_matching.mismatch([h[REAL:]], TABLE[ids[REAL:]]).item() for h in STATES]
    assert levels == approx(
        [0.388964566771839, 0.4927751513029831, 0.33708996660102836, 0.3514331354376932]
    )
    theirs = released.random_matching(STATES, TABLE, ids).item()
    assert theirs == approx(0.3363339275575294)
    without_pads = released.random_matching([h[REAL:] for h in STATES], TABLE, ids[REAL:]).item()
    assert without_pads == approx(ours.item()), "pads are the whole difference"


def test_rmu_has_its_golden_values() -> None:
    now, before = STATES[2], STATES[1]
    assert rmu.mean_square(now[REAL:], CONTROL).item() == approx(0.8140862480383448)
    assert rmu.mean_square(now[REAL:], before[REAL:]).item() == approx(0.6807304183772933)
    assert released.rmu(now, CONTROL).item() == approx(1.2588621856133975)
    assert released.rmu(now, before).item() == approx(0.4793775293012668)


def test_the_golden_rmu_terms_come_out_of_the_objective() -> None:
    """skip_tokens leaves out the first two positions, as the mask of the specification does."""
    row = Row("golden", torch.tensor(IDS), 1)
    s = methods.method("rmu", layer=7, alpha=3.0, skip_tokens=2)
    streams = {
        "forget": Stream([row], [], lambda h: h, {7: [STATES[2]]}),
        "retain": Stream([row], [], lambda h: h, {7: [STATES[2]]}, {7: [STATES[1]]}),
    }
    terms = s.loss(streams, {"control_vector": CONTROL})
    assert terms["forget"].item() == approx(0.8140862480383448)
    assert terms["retain"].item() == approx(3 * 0.6807304183772933)


def test_the_adaptive_coefficient_has_its_golden_value() -> None:
    assert rmu.adaptive(STATES[GOLDEN_LEVEL][REAL:], 5.0) == approx(7.8090226076960265)


GOLDEN_LEVEL = 2


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_no_golden_value(chunk: int) -> None:
    rows = LOGITS[REAL:]
    found = heads.entropy(rows, lambda h: h, chunk).mean().item()
    assert -found == approx(-1.5129721086827235)
    assert heads.kl_from_uniform(rows, lambda h: h, chunk).mean().item() == approx(
        1.5764041038725565
    )
