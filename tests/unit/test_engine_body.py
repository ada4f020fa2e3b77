"""Kept prefixes, and recomputed activations: same states, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.engine import body as bodies
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row, join
from palimpsest.settings.training import Lora

UPPER = Lora(rank=4, alpha=8, first_layer=2, targets=["q_proj", "v_proj"])
SHAPES = [(3, 4), (9, 8), (4, 16), (2, 5), (3, 4), (4, 16)]


def states_and_gradients(
    model: Any, weights: dict[str, torch.Tensor], body: Body, rows: list[Row], made: list[Row]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    states = body.hidden(rows, made)
    factors = torch.arange(states[0].shape[1], dtype=states[0].dtype).cos()
    torch.stack(
        [(state @ factors).sum() * (i + 1) for i, state in enumerate(states)]
    ).sum().backward()
    gradients = [w.grad for w in weights.values()]
    for weight in weights.values():
        weight.grad = None
    return [s.detach() for s in states], [g for g in gradients if g is not None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-6)])
def test_kept_prefixes_give_the_states_and_gradients_of_the_full_path(
    dtype: torch.dtype, tolerance: float
) -> None:
    model, weights = tiny.with_lora(tiny.llama(dtype), UPPER)
    rows = tiny.rows(SHAPES)
    made = [join(rows[0], rows[2]), join(rows[1], rows[3])]
    split = Body(model.get_base_model(), 2)
    assert split.first_trained == 2
    split.keep(rows)
    full = states_and_gradients(model, weights, Body(model.get_base_model()), rows, made)
    for _ in range(2):  # computed, then kept
        kept = states_and_gradients(model, weights, split, rows, made)
        for ours, theirs in zip(kept, full, strict=True):
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_a_kept_prefix_does_not_depend_on_which_batch_asked_first() -> None:
    model, _ = tiny.with_lora(tiny.llama(torch.float32), UPPER)
    rows = tiny.rows(SHAPES)
    one, other = Body(model.get_base_model(), 2), Body(model.get_base_model(), 2)
    for body in (one, other):
        body.keep(rows)
    one.hidden(rows[3:])
    for a, b in zip(one.hidden(rows[:3]), other.hidden(rows[:3]), strict=True):
        assert torch.equal(a, b)


def test_only_trained_blocks_run_once_a_prefix_is_kept() -> None:
    model, _ = tiny.with_lora(tiny.llama(), UPPER)
    rows = tiny.rows(SHAPES)
    body = Body(model.get_base_model(), 2)
    body.keep(rows)
    runs = [0] * tiny.LAYERS
    for i, block in enumerate(body.decoder.layers):
        block.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    body.hidden(rows)
    lower = runs[0]
    body.hidden(rows)
    assert runs[0] == runs[1] == lower
    assert runs[2] == runs[3] > 0


def test_frozen_blocks_run_once_for_rows_that_a_step_reads_twice() -> None:
    """RMU reads its retain rows in the trained and in the untrained model."""
    model, _ = tiny.with_lora(tiny.llama(), UPPER)
    rows = tiny.rows(SHAPES)
    body = Body(model.get_base_model(), 2)
    first = body.hidden(rows)
    runs = []
    body.decoder.layers[0].register_forward_hook(lambda *_: runs.append(1))
    again = [state.final for state in body.states(rows[2:4], again=True)]
    assert not runs
    for a, b in zip(again, first[2:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    # A killed run resumes without knowing what the last step read: no other call may use it.
    body.hidden(rows[2:4])
    assert runs


def test_rows_beyond_the_memory_for_prefixes_give_the_same_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = tiny.with_lora(tiny.llama(), UPPER)
    rows = tiny.rows(SHAPES)
    full = Body(model.get_base_model()).hidden(rows)
    monkeypatch.setattr(bodies, "PREFIX_BYTES", 12000)
    body = Body(model.get_base_model(), 2)
    body.keep(rows)
    assert 0 < len(body._groups) < len(rows)
    for a, b in zip(body.hidden(rows), full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "why"),
    [(tiny.opt, "positions are learned"), (tiny.neox, "other names"), (tiny.gemma, "two kinds")],
)
def test_prefixes_are_not_kept_where_blocks_cannot_run_apart(build: Any, why: str) -> None:
    model = build()
    body = Body(model, 2)
    assert body.first_trained == 0, why
    rows = tiny.rows([(20, 10), (3, 4)])
    body.keep(rows)
    for state, expected in zip(body.hidden(rows), Body(model).hidden(rows), strict=True):
        assert torch.equal(state, expected)


@pytest.mark.parametrize("first", [0, 4, 9])
def test_a_first_block_that_leaves_nothing_to_split_means_the_full_path(first: int) -> None:
    assert Body(tiny.llama(), first).first_trained == 0


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt])
@pytest.mark.parametrize("first", [0, 2])
def test_recomputing_activations_changes_no_bit_and_saves_memory(build: Any, first: int) -> None:
    rows = tiny.rows(SHAPES)
    found, saved = [], []
    for recompute in (False, True):
        model, weights = tiny.with_lora(build(torch.float32), UPPER)
        body = Body(model.get_base_model(), first, recompute)
        body.keep(rows)
        held = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            found.append(states_and_gradients(model, weights, body, rows, []))
        saved.append(held)
        assert not any(module.training for module in model.modules())
    for one, other in zip(*found, strict=True):
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
