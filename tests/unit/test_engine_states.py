"""Inner states: which blocks a pass runs, and what it leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch

from kit import methods
from kit import models as tiny
from kit.methods import SETS, assert_same_gradients
from palimpsest.engine.body import Body
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.model.delta import add_deltas
from palimpsest.settings.draw import Reads


@pytest.mark.parametrize("kept", [False, True])
def test_a_pass_that_ends_early_gives_the_states_and_gradients_of_the_full_one(kept: bool) -> None:
    """Analysis360 7 (8)."""
    model = copy.deepcopy(tiny.llama())
    weights = add_deltas(model, [methods.DOWN])
    for weight in weights.values():
        weight.data = weight.data.double()
    tiny.perturb(weights)
    rows = list(SETS["forget"])
    body = Body(model, 1)
    if kept:
        body.keep(rows)
    runs = [0] * tiny.LAYERS
    for i, block in enumerate(body.decoder.blocks):
        block.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    early = [s.blocks[2] for s in body.states(rows, reads=Reads(final=False, blocks=(2,)))]
    assert runs[3] == 0
    assert runs[2] > 0
    full = [model(r.ids[None], output_hidden_states=True).hidden_states[3][0] for r in rows]
    for a, b in zip(early, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    found, expected = (
        torch.autograd.grad(
            torch.stack([(h.cos() * (i + 1)).sum() for i, h in enumerate(states)]).sum(),
            list(weights.values()),
        )
        for states in (early, full)
    )
    assert_same_gradients(found, expected, 1e-10)


def test_a_layer_below_training_is_refused_where_blocks_cannot_run_apart() -> None:
    """Else nothing that is trained would be read, and the backward pass would fail."""
    body = Body(tiny.opt(), 2)
    rows = tiny.rows([(3, 4)])
    assert body.first_trained == 0
    with pytest.raises(UserError, match="training begins at block 2; choose one of 2 to 3"):
        body.states(rows, reads=Reads(final=False, blocks=(1,)))
    levels = body.states(rows, reads=Reads(all_levels=True))[0].blocks
    assert sorted(levels) == [-1, 2], "what enters block 2, and its output; then the final state"
    outputs = body.decoder.module(rows[0].ids[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(levels[-1], outputs[2][0])


@pytest.mark.parametrize("first", [0, 1])
def test_every_level_is_every_state_that_training_can_move(first: int) -> None:
    """L + 1 states if everything is trained, as in the released code."""
    model = tiny.llama()
    row = SETS["forget"][0]
    state = Body(model, first).states([row], reads=Reads(all_levels=True))[0]
    stream = Stream([row], [state.final], lambda h: h, {b: [h] for b, h in state.blocks.items()})
    found = [level[0] for level in stream.levels()]
    expected = model(row.ids[None], output_hidden_states=True).hidden_states[first:]
    assert len(found) == len(expected) == tiny.LAYERS + 1 - first
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b[0], rtol=1e-12, atol=1e-12)


def test_hooks_are_gone_after_a_pass_that_failed() -> None:
    """#29."""
    model = tiny.llama()
    body = Body(model, 1)
    rows = tiny.rows([(3, 4)])
    model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in a block"):
        body.states(rows, reads=Reads(all_levels=True))
    assert len(model.model.layers) == tiny.LAYERS, "the decoder is whole again"
    hooks = [
        hook
        for block in model.model.layers
        for hook in (*block._forward_hooks.values(), *block._forward_pre_hooks.values())
    ]
    assert hooks == [fail]


def fail(*_: object) -> None:
    raise RuntimeError("in a block")
