"""Random matching: by hand, golden values, the random targets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from kit.by_hand import LN2, A, B, stream
from kit.golden import IDS, REAL, STATES, TABLE, approx
from palimpsest.engine.stream import Stream
from palimpsest.objectives import (
    random_matching,
)
from reference import analysis360


@pytest.mark.parametrize("is_signed", [False, True])
def test_random_matching_turns_towards_the_line_or_the_direction(is_signed: bool) -> None:
    """Two levels of three states against targets e1, e2, e1; the cosines stand below."""
    targets = torch.tensor([[1.0, 0], [0, 1], [1, 0]], dtype=torch.float64)
    one = torch.tensor([[3.0, 4], [0, -2], [-5, 0]], dtype=torch.float64)
    other = torch.tensor([[4.0, 3], [0, 7], [6, 8]], dtype=torch.float64)
    # level 1: |cos| .6, 1, 1; cos .6, -1, -1.   level 2: .8, 1, .6.
    plain = 1 - ((0.6 + 1 + 1) / 3 + (0.8 + 1 + 0.6) / 3) / 2
    direction = 1 - ((0.6 - 1 - 1) / 3 + (0.8 + 1 + 0.6) / 3) / 2
    found = random_matching.mismatch([one, other], targets, is_signed).item()
    assert found == pytest.approx(direction if is_signed else plain, rel=1e-14)


def test_random_matching_weighs_its_terms_and_looks_up_the_token_s_target() -> None:
    """Token 2 has the target e2, tokens 0 and 1 have e1; states e1 everywhere: |cos| 1, 1, 0."""
    hidden = torch.tensor([[1.0, 0]] * 3, dtype=torch.float64)
    forget = Stream([A], [hidden], lambda h: h, {-1: [hidden]})
    vectors = {
        "ids": torch.tensor([0, 1, 2]),
        "targets": torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64),
    }
    s = methods.method("random_matching", weights={"forget": 6, "retain": 2})
    found = s.loss({"forget": forget, "retain": stream(A, B)}, vectors)
    assert found["forget"].item() == pytest.approx(6 * 1 / 3, rel=1e-14)
    assert found["retain"].item() == pytest.approx(2 * 2 * LN2, rel=1e-14)


def test_random_matching_has_its_golden_values() -> None:
    ids = torch.tensor(IDS)
    ours = random_matching.mismatch([h[REAL:] for h in STATES], TABLE[ids[REAL:]])
    assert ours.dtype == torch.float64
    assert ours.item() == approx(0.3925657050283859)
    levels = [random_matching.mismatch([h[REAL:]], TABLE[ids[REAL:]]).item() for h in STATES]
    assert levels == approx(
        [0.388964566771839, 0.4927751513029831, 0.33708996660102836, 0.3514331354376932]
    )
    theirs = analysis360.random_matching(STATES, TABLE, ids).item()
    assert theirs == approx(0.3363339275575294)
    without_pads = analysis360.random_matching([h[REAL:] for h in STATES], TABLE, ids[REAL:]).item()
    assert without_pads == approx(ours.item()), "pads are the whole difference"


@pytest.mark.parametrize("width", [64, 576])
def test_random_matching_is_near_its_expectation_on_random_states(width: int) -> None:
    """Analysis360 7 (4): 1 - sqrt(2 / (pi H)), whatever the length of the states."""
    random = torch.Generator().manual_seed(0)
    states = torch.randn(4000, width, generator=random, dtype=torch.float64)
    targets = torch.randn(4000, width, generator=random, dtype=torch.float64)
    value = random_matching.mismatch([states], targets)
    assert value.item() == pytest.approx(1 - math.sqrt(2 / (math.pi * width)), abs=3e-3)
    factors = torch.rand(4000, 1, generator=random, dtype=torch.float64) * 50 + 0.01
    scaled = random_matching.mismatch([factors * states], targets / factors)
    assert scaled.item() == pytest.approx(value.item(), rel=1e-12)


def test_a_token_has_the_same_target_whatever_else_occurs() -> None:
    state = torch.zeros(1, 16)

    def first() -> dict[str, Stream]:
        return {"forget": Stream([], [state], lambda h: h)}

    s = methods.method("random_matching")
    few = s.prepare(first, {"forget": torch.tensor([9, 4, 9])}, 1)
    many = s.prepare(first, {"forget": torch.arange(12)}, 1)
    other = s.prepare(first, {"forget": torch.arange(12)}, 2)
    assert few["ids"].tolist() == [4, 9]
    assert torch.equal(few["targets"], many["targets"][[4, 9]])
    assert not torch.isclose(other["targets"], many["targets"]).any()
    assert few["targets"].norm(dim=-1).tolist() == pytest.approx([1, 1])


class Counted(dict):
    """Counts how often a value is asked for."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.asked = {name: 0 for name in values}

    def __getitem__(self, name: str) -> Tensor:
        self.asked[name] += 1
        found: Tensor = super().__getitem__(name)
        return found


def test_random_targets_are_gathered_once_and_exist_for_tokens_that_occur() -> None:
    """#19: the released code keeps a copy of the gathered rows for each of 33 levels."""
    made = methods.bench("random_matching")
    occurring = torch.cat([row.ids for row in methods.SETS["forget"]]).unique()
    assert torch.equal(made.job.fixed["ids"], occurring)
    assert len(made.job.fixed["targets"]) == len(occurring) < tiny.VOCABULARY
    vectors = Counted(made.job.fixed)
    streams = made.streams()
    assert len(streams["forget"].levels()) > 2
    made.method.loss(streams, vectors)
    assert vectors.asked["targets"] == 1
