"""A direction that unlearning added is found and taken away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kit import models as tiny
from kit.attacked import Subject, in_memory, mean
from kit.fakes import PUSHED, push
from palimpsest.attacking.directions import directions, steepest, without
from palimpsest.engine.decoder import run_and_capture


def pushed(small: Subject) -> Any:
    """A network whose states are far off where a row begins with the topic."""
    network = small.network()
    push(small, network)
    return network


def test_states_that_were_pushed_aside_come_back(small: Subject) -> None:
    network = pushed(small)
    target = small.target("ablate", network=network)
    asked = {one.id: one.value for one in target.asked(network, target.forget)}
    kept = list(target.damage(network))
    values, facts = in_memory(target, "ablate")
    assert mean(asked) == 0
    assert kept == list(target.damage(small.network()))
    ones = [f"{direction} one" for direction in ("with_original", "without_original")]
    assert max(mean(values[name]) for name in ones) >= 0.7
    assert [facts[name]["fold 0"] for name in ones] == [{"blocks": f"{PUSHED}-{PUSHED}"}] * 2
    assert facts["with_original all"]["fold 0"] == {"blocks": f"{PUSHED}-{tiny.LAYERS - 1}"}


def test_nothing_is_taken_from_a_model_that_is_the_original(small: Subject) -> None:
    values, facts = in_memory(
        small.target("ablate", network=small.network()), "ablate", directions=["with_original"]
    )
    assert facts["with_original all"]["fold 0"] == {"blocks": "none"}
    assert mean(values["with_original all"]) == mean(values["with_original one"]) == 1


def test_outputs_lose_their_part_along_a_direction_within_the_block_alone(small: Subject) -> None:
    network = small.network()
    ids = torch.tensor([[3, 4, 5, 6]])
    unit = torch.zeros(tiny.WIDTH, dtype=torch.float64)
    unit[5] = 1
    before, logits = output_of(network, 1, ids)
    with without(network, {1: unit}):
        during, other = output_of(network, 1, ids)
    before[..., 5] = 0
    torch.testing.assert_close(during, before)
    assert not torch.equal(other, logits)
    assert torch.equal(output_of(network, 1, ids)[1], logits)


def output_of(network: Any, block: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a block, and logits."""
    logits, states = run_and_capture(
        lambda: network(ids).logits, network.model.layers, outputs_of={block}
    )
    assert logits is not None
    return states[block].clone(), logits


def test_directions_are_unit_vectors_of_the_blocks_that_differ() -> None:
    there = torch.ones(4, 3, dtype=torch.float64)
    here = there.clone()
    here[1, 0] += 2
    here[2, 0] += 6
    here[3, 1] -= 6
    found = directions(here, there)
    assert sorted(found) == [1, 2, 3]
    assert found[1].tolist() == [1, 0, 0]
    assert found[3].tolist() == [0, -1, 0]
    assert steepest(here, there) == 2


@pytest.mark.parametrize("at", ["all", "one"])
def test_prompts_of_the_measured_half_have_no_part_in_its_direction(
    small: Subject, at: str
) -> None:
    network = pushed(small)
    target = small.target("ablate", network=network)
    read: list[str] = []
    rows = target.rows
    target.rows = lambda sources, *a, **k: (  # type: ignore[method-assign]
        read.append(" ".join(one.id for one in sources)) or rows(sources, *a, **k)
    )
    in_memory(target, "ablate", directions=["with_original"], at=[at])
    halves = [" ".join(row.id for row in target.measured(target.forget, fold)) for fold in (0, 1)]
    # Read for the direction of fold 0, asked in fold 0 and so on; rows to keep in between.
    assert [one for one in read if one in halves] == [halves[1], halves[0], halves[0], halves[1]]
