"""Compiled blocks: the same states, gradients and training as without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import Job, train
from palimpsest.errors import UserError
from palimpsest.settings.draw import Reads
from palimpsest.settings.training import Lora, Optimizer

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++ here"
)
READS = [Reads(), Reads(every=True), Reads(final=False, blocks=(1,))]


@pytest.fixture(scope="module")
def pair() -> list[tuple[Body, dict[str, Tensor]]]:
    """The same model without and with compiled blocks; its trial has compiled what is needed."""
    torch._dynamo.reset()
    made = []
    for compiled in (False, True):
        model, weights = tiny.with_lora(tiny.llama(torch.float32))
        made.append((Body(model.get_base_model(), compiled=compiled), weights))
    return made


def with_shared_prompts(seed: int = 0) -> list[Row]:
    first, second, *others = tiny.rows([(5, 8), (7, 3 + seed), (3, 20), (6, 2)], seed)
    joined = torch.cat([first.prompt, second.response])
    return [first, second, Row("shared", joined, first.prompt_length), *others]


def states_and_gradients(
    body: Body, weights: dict[str, Tensor], rows: list[Row], reads: Reads = READS[0]
) -> list[Tensor]:
    found = [
        t for s in body.states(rows, reads=reads) for t in (s.final, *s.blocks.values()) if len(t)
    ]
    factors = torch.arange(tiny.WIDTH, dtype=torch.float32).cos()
    torch.stack([(i + 1) * (t @ factors).sum() for i, t in enumerate(found)]).sum().backward()
    found += [w.grad for w in weights.values() if w.grad is not None]
    for weight in weights.values():
        weight.grad = None
    return [t.detach() for t in found]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 2e-5 * b.norm()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("reads", READS)
def test_states_and_gradients_are_the_same(pair: Any, reads: Reads) -> None:
    plain, compiled = (states_and_gradients(*one, with_shared_prompts(), reads) for one in pair)
    assert pair[1][0].packs
    assert_same(compiled, plain)


@needs_compiler
@pytest.mark.slow
def test_no_length_and_no_number_of_rows_compiles_anything_again(pair: Any) -> None:
    before = graphs()
    # The first block's input needs no gradient: of each of the four parts there are two at most.
    assert 0 < before <= 8
    for seed in (1, 2):
        rows = with_shared_prompts(seed)
        states_and_gradients(*pair[1], rows[seed:])
    assert graphs() == before


@needs_compiler
@pytest.mark.slow
def test_recomputed_activations_go_together_with_compiled_blocks(pair: Any) -> None:
    model, weights = tiny.with_lora(tiny.llama(torch.float32))
    both = Body(model.get_base_model(), recompute=True, compiled=True)
    rows = with_shared_prompts()
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    saved = []
    for body, trained in (pair[1], (both, weights)):
        held = 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            found = states_and_gradients(body, trained, rows)
        saved.append(held)
        assert_same(found, states_and_gradients(*pair[0], rows))
    assert saved[1] < saved[0] / 2


@needs_compiler
@pytest.mark.slow
def test_kept_prefixes_go_together_with_compiled_blocks() -> None:
    rows, found = with_shared_prompts(), []
    for compiled in (False, True):
        model, weights = tiny.with_lora(
            tiny.llama(torch.float32), Lora(rank=4, first_layer=2, targets=["q_proj", "v_proj"])
        )
        body = Body(model.get_base_model(), 2, compiled=compiled)
        body.keep(rows[:2])
        found.append(states_and_gradients(body, weights, rows))
        assert body.first_trained == 2
    assert_same(found[1], found[0])


@needs_compiler
@pytest.mark.slow
def test_a_whole_training_has_the_same_losses(pair: Any, tmp_path: Path) -> None:
    pool = tiny.rows([(3, 6), (5, 9), (4, 4), (8, 12), (2, 7), (6, 5)])
    losses = []
    for kind, (body, weights) in zip(("plain", "compiled"), pair, strict=True):
        log = train(
            Job(
                label=kind,
                body=body,
                weights=weights,
                streams=Streams({"rows": 3}, {"rows": pool}, 0),
                loss=lambda streams: {"nll": streams["rows"].nll().mean()},
                steps=10,
                optimizer=Optimizer(learning_rate=1e-2),
                folder=tmp_path / kind,
                fingerprint=kind,
            )
        )
        losses.append([json.loads(line)["loss"] for line in log.read_text().splitlines()])
    plain, compiled = losses
    assert len(plain) == 10
    assert plain[-1] < plain[0]
    assert compiled == pytest.approx(plain, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("first_trained", [0, 2])
def test_a_machine_without_a_compiler_is_told_so_before_training(first_trained: int) -> None:
    torch._dynamo.reset()
    model, _ = tiny.with_lora(tiny.llama(torch.float32))
    without = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with torch._inductor.config.patch(without), pytest.raises(UserError) as refused:
        Body(model.get_base_model(), first_trained, compiled=True)
    message = str(refused.value)
    assert message.startswith("training.compile: ")
    assert "needs a C++ compiler" in message
    assert "no-such-compiler" in message
    assert message.endswith("Set training.compile: false")
    assert "\n" not in message
