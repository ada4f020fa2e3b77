"""RMU-LAT: the attack against a plain one, what it moves, what it costs, what it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from palimpsest.engine import inner
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.train import run, train
from palimpsest.errors import UserError
from palimpsest.settings.adversary import Adversary
from palimpsest.settings.draw import Reads

ROWS = methods.SETS["forget"]
ATTACK = Adversary(block=1, radius=0.5, steps=6, learning_rate=0.1)


def body() -> tuple[Body, Any]:
    model = tiny.llama()
    made = Body(model, 1)
    inner.check(made, ATTACK)
    return made, model


def plain_cost(model: Any, row: Row, delta: Tensor) -> Tensor:
    """Mean cost of a row's answer with delta at the output of block 1: the whole model, hooked."""

    def add(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + delta, *output[1:])
        return output + delta

    handle = model.model.layers[1].register_forward_hook(add)
    logits = model(row.ids[None]).logits[0]
    handle.remove()
    logs = logits[row.prompt_length - 1 : -1].log_softmax(-1)
    return -logs.gather(1, row.response[:, None])[:, 0]


def plain_attack(model: Any, rows: list[Row], attack: Adversary) -> list[Tensor]:
    """By the definition: a pass of the whole model for every step and row."""
    deltas = [
        torch.zeros(len(row), tiny.WIDTH, dtype=torch.float64, requires_grad=True) for row in rows
    ]
    optimizer = torch.optim.AdamW(deltas, lr=attack.learning_rate)
    for _ in range(attack.steps):
        optimizer.zero_grad()
        costs = [plain_cost(model, row, d) for row, d in zip(rows, deltas, strict=True)]
        torch.cat(costs).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for delta in deltas:
                for token in delta:
                    if token.norm() > attack.radius:
                        token.mul_(attack.radius / token.norm())
    return [delta.detach() for delta in deltas]


def test_the_attack_is_that_of_the_whole_model() -> None:
    made, model = body()
    rows = list(ROWS[:3])
    found = inner.attack(made, rows, ATTACK)
    for row, expected in zip(rows, plain_attack(model, rows, ATTACK), strict=True):
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
        assert found[row].norm(dim=-1).max() <= ATTACK.radius * (1 + 1e-9)
        moved, before = (
            plain_cost(model, row, d).mean().item() for d in (found[row], 0 * found[row])
        )
        assert moved < before, "the row is known better"


def test_what_is_within_the_ball_stays_where_it_is() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    inner.project(delta, 2.0)
    assert delta.tolist() == [
        pytest.approx([1.2, 1.6]),
        pytest.approx([0.3, 0.4]),
        [0.0, 0.0],
    ]


def test_an_attack_runs_the_blocks_below_it_once() -> None:
    made, model = body()
    calls: Counter[int] = Counter()
    for i, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, i=i: calls.update([i]))
    inner.attack(made, [ROWS[0], ROWS[3]], ATTACK)  # of one length: a pass is one call
    # The output of frozen block 0 is kept by prefixes of one length each.
    assert calls == {0: 1, 1: 1, 2: ATTACK.steps, 3: ATTACK.steps}


def test_only_the_rows_named_are_moved_and_only_within() -> None:
    made, _ = body()
    reads = Reads(blocks=(1, 2))
    rows = [ROWS[0], ROWS[1]]
    before = made.states(rows, reads)
    delta = torch.randn(len(rows[0]), tiny.WIDTH, dtype=torch.float64)
    with made.adding(1, {rows[0]: delta}):
        moved = made.states(rows, reads)
    after = made.states(rows, reads)
    torch.testing.assert_close(moved[0].blocks[1], before[0].blocks[1] + delta)
    assert not torch.allclose(moved[0].blocks[2], before[0].blocks[2])
    torch.testing.assert_close(moved[1].final, before[1].final)
    torch.testing.assert_close(after[0].final, before[0].final, rtol=0, atol=0)


def test_an_attack_leaves_no_gradient_and_no_weight_behind() -> None:
    made = methods.bench("rmu_lat")
    inner.check(made.job.body, ATTACK)
    before = {name: weight.clone() for name, weight in made.job.weights.items()}
    inner.attack(made.job.body, ROWS[:2], ATTACK)
    for name, weight in made.job.weights.items():
        assert weight.grad is None
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("updates", [1, 3])
def test_a_step_is_one_attack_and_several_updates_on_the_same_rows(
    tmp_path: Path, updates: int
) -> None:
    attack = {"block": 1, "radius": 0.5, "steps": 3, "updates": updates}
    over: dict[str, Any] = {"steps": 1, "attack": attack, "moved": False}
    trained = methods.bench("rmu_lat", tmp_path, **over)
    train(trained.job)
    made = methods.bench("rmu_lat", tmp_path, **over)
    inner.check(made.job.body, Adversary(**attack))
    drawn = made.job.streams.draw(0)
    added = inner.attack(made.job.body, drawn["forget"], Adversary(**attack))
    weights = list(made.job.weights.values())
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0)
    for _ in range(updates):
        with made.job.body.adding(1, added):
            methods.total(made.job.loss(run(made.job, drawn, made.untrained))).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in trained.job.weights.items():
        assert weight.abs().max() > 0
        torch.testing.assert_close(weight, made.job.weights[name], rtol=1e-6, atol=1e-9)


def test_without_a_radius_to_speak_of_it_is_rmu(tmp_path: Path) -> None:
    """With delta near 0 and one update a step."""
    attack = {"block": 1, "radius": 1e-9, "steps": 1, "updates": 1}
    found = []
    for key, over in (("rmu_lat", {"attack": attack}), ("rmu", {})):
        made = methods.bench(key, tmp_path / key, moved=False, **over)
        train(made.job)
        found.append(list(made.job.weights.values()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [2, 3])
def test_states_that_are_steered_lie_above_those_attacked(block: int) -> None:
    with pytest.raises(ValueError, match=f"attack.block is {block} and layer 2.*raise layer"):
        methods.method("rmu_lat", attack={"block": block})


@pytest.mark.parametrize("block", [0, 3])
def test_a_block_that_cannot_be_attacked_is_refused(block: int) -> None:
    made = Body(tiny.llama(), 1)
    said = rf"attack.block: {block}, but .* blocks 0 to 3 .*; choose one of 1 to 2"
    with pytest.raises(UserError, match=said):
        inner.check(made, Adversary(block=block))


def test_blocks_that_cannot_run_apart_cannot_be_attacked() -> None:
    with pytest.raises(UserError, match=r"attack.block: 1 cannot be attacked: .*several kinds"):
        inner.check(Body(tiny.gemma()), Adversary(block=1))
