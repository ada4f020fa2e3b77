"""RR: golden values, which tokens and levels count, where the pass and the adapter end."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.model.lora import add_trainable
from palimpsest.objectives import rerouting
from palimpsest.settings.training import Lora
from reference import masks

K = torch.arange(4, dtype=torch.float64)
LENGTHS = (3, 2)
ROWS = [Row(f"row-{b}", torch.zeros(n, dtype=torch.int64), 1) for b, n in enumerate(LENGTHS)]


def untrained(j: int, b: int, t: int) -> Tensor:
    return (0.7 * K + 0.5 * t + 0.3 * b + 0.8 * j + 0.1).sin()


def trained(j: int, b: int, t: int) -> Tensor:
    return untrained(j, b, t) + 0.25 * (1.1 * K + t + 2 * b + j).cos()


def other(j: int, b: int, t: int) -> Tensor:
    return (0.7 * K * (t + 1) + 0.3 * b + j).cos()


def level(function: object) -> dict[int, list[Tensor]]:
    """Blocks 0 and 1 of both rows."""
    return {
        j: [torch.stack([function(j, b, t) for t in range(n)]) for b, n in enumerate(LENGTHS)]
        for j in (0, 1)
    }


def stream(now: object = trained, before: object = untrained) -> Stream:
    return Stream(ROWS, [], lambda h: h, level(now), level(before))


def share(value: float) -> dict[str, Tensor]:
    return {"share": torch.tensor(value)}


def terms(value: float, **over: object) -> dict[str, float]:
    made = methods.method("rr", **{"blocks": [0, 1], "alpha": 10, **over})
    streams = {"forget": stream(trained, other), "retain": stream()}
    return {name: term.item() for name, term in made.loss(streams, share(value)).items()}


def test_the_golden_values() -> None:
    assert rerouting.likeness(stream(trained, other), [0, 1]).item() == pytest.approx(
        0.0630914901602, rel=1e-11
    )
    assert rerouting.distance(stream(), [0, 1]).item() == pytest.approx(0.356548892924, rel=1e-11)


def test_the_mix_moves_from_forgetting_to_keeping() -> None:
    """k = step/300 in a run of 150 steps: it ends at half and half."""
    forget, retain = 0.0630914901602, 0.356548892924
    assert terms(0.0) == pytest.approx({"forget": 10 * forget, "retain": 0})
    assert terms(0.5) == pytest.approx({"forget": 7.5 * forget, "retain": 2.5 * retain})
    assert terms(1.0, retain_share=1.0) == pytest.approx({"forget": 0, "retain": 10 * retain})


def test_the_slopes_are_central_differences() -> None:
    states = level(trained)
    leaf = states[1][0].clone().requires_grad_()

    def loss(moved: Tensor) -> Tensor:
        blocks = {**states, 1: [moved, states[1][1]]}
        rows = Stream(ROWS, [], lambda h: h, blocks, level(other))
        return 3 * rerouting.likeness(rows, [0, 1]) + rerouting.distance(rows, [0, 1])

    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    for t in range(3):
        for k in range(4):
            there = []
            for sign in (1, -1):
                moved = leaf.detach().clone()
                moved[t, k] += sign * 1e-6
                there.append(loss(moved).item())
            assert slope[t, k].item() == pytest.approx((there[0] - there[1]) / 2e-6, abs=1e-8)


def test_states_that_point_away_cost_nothing_more() -> None:
    away = stream(lambda *at: -untrained(*at), untrained)
    assert rerouting.likeness(away, [0, 1]).item() == 0


@pytest.mark.parametrize("levels", ["chosen", "every"])
@pytest.mark.parametrize("start", ["fresh", "subject", "weights"])
def test_nothing_is_turned_at_the_first_step(start: str, levels: str) -> None:
    training = {**methods.RATE, **({"parameters": [methods.DOWN]} if start == "weights" else {})}
    made = methods.bench("rr", start=start, levels=levels, training=training, moved=False)
    streams = made.streams()
    assert rerouting.likeness(streams["forget"], [1, 2]).item() == pytest.approx(1, abs=1e-6)
    assert rerouting.distance(streams["retain"], [1, 2]).item() < 1e-5
    moved = methods.bench("rr", start=start, levels=levels, training=training).streams()
    assert rerouting.likeness(moved["forget"], [1, 2]).item() < 1 - 1e-4
    assert rerouting.distance(moved["retain"], [1, 2]).item() > 1e-2


def test_the_likeness_has_no_slope_at_the_start() -> None:
    """The cosine of a state with itself is at its maximum."""

    def slope(moved: bool) -> float:
        made = methods.bench("rr", moved=moved)
        term = rerouting.likeness(made.streams()["forget"], [1, 2])
        weights = list(made.job.weights.values())
        found = torch.autograd.grad(term, weights, allow_unused=True, materialize_grads=True)
        return max(gradient.abs().max().item() for gradient in found)

    assert slope(moved=False) < 1e-6
    assert slope(moved=True) > 1e-3


def test_every_level_is_that_of_each_trained_block_up_to_the_highest() -> None:
    chosen = methods.bench("rr").streams()["retain"]
    every = methods.bench("rr", levels="every").streams()["retain"]
    assert sorted(chosen.blocks) == [1, 2]
    assert sorted(every.blocks) == sorted(every.untrained) == [0, 1, 2]
    training = {**methods.RATE, "parameters": [methods.DOWN]}
    on_weights = methods.bench("rr", levels="every", start="weights", training=training)
    assert sorted(on_weights.streams()["retain"].blocks) == [1, 2]
    made = methods.method("rr", levels="every", alpha=1)
    at_end = made.loss({"retain": every}, share(1.0))["retain"].item()
    means = [rerouting.distance(every, [block]).item() for block in (0, 1, 2)]
    assert at_end == pytest.approx(sum(means) / 3 / 2)


def test_padding_never_counts() -> None:
    """The released retain term is a mean over padded positions, whose states are zeroed."""
    rows = stream()
    ours = rerouting.distance(rows, [0, 1]).item()
    pairs = [(rows.blocks[j], rows.untrained[j]) for j in (0, 1)]
    assert masks.rr_retain(pairs, longest=3).item() == pytest.approx(ours * 5 / 6)
    assert masks.rr_retain(pairs, longest=30).item() == pytest.approx(ours * 5 / 60)
    made = methods.bench("rr")
    rows = made.streams()["retain"]
    assert [len(states) for states in rows.blocks[1]] == [len(row) for row in rows.rows]


def test_all_tokens_of_prompt_and_answer_count() -> None:
    rows = stream()
    for b, t in ((0, 0), (0, 2), (1, 1)):
        blocks = copy.deepcopy(rows.blocks)
        blocks[1][b][t] += 1
        changed = replace(rows, blocks=blocks)
        assert rerouting.distance(changed, [0, 1]) != rerouting.distance(rows, [0, 1])
        assert rerouting.likeness(changed, [0, 1]) != rerouting.likeness(rows, [0, 1])


def test_a_model_with_fewer_blocks_is_refused() -> None:
    made = methods.bench("rr", blocks=[2, 19])
    with pytest.raises(UserError, match="block 19 is read, but the model has blocks 0 to 3"):
        made.streams()


def test_blocks_above_the_highest_get_no_adapter_and_the_others_the_same_one() -> None:
    lora = Lora(rank=2, targets=tiny.TARGETS, first_layer=1)
    _, every = add_trainable(tiny.llama(torch.float32), lora, "unlearned", 0)
    _, some = add_trainable(tiny.llama(torch.float32), lora, "unlearned", 0, last=2)
    assert {name.split(".layers.")[1][0] for name in some} == {"1", "2"}
    assert all(torch.equal(weight, every[name]) for name, weight in some.items())
    assert len(every) == 3 / 2 * len(some)


def test_an_adapter_that_begins_above_the_highest_block_is_refused() -> None:
    lora = Lora(targets=tiny.TARGETS, first_layer=3)
    with pytest.raises(UserError, match="reads no block above 2, so nothing would be trained"):
        add_trainable(tiny.llama(torch.float32), lora, "unlearned", 0, last=2)
