"""What unlearning added to a model's states, and models that run without it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.attacking.layers import layers_of
from palimpsest.attacking.target import Target
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import Decoder
from palimpsest.engine.rows import Row

NOTHING = 1e-6
"""A direction that is shorter than this share of the states is none."""


def mean_states(target: Target, network: nn.Module, rows: Sequence[Row], what: str) -> Tensor:
    """Mean output of each block over the prompts' tokens, float64 [blocks, width].

    Each prompt counts the same. Its first token is left out: it sees nothing, and its states are
    far larger than all others in many models.
    """
    prompts = [Row(row.id, row.prompt, row.prompt_length) for row in rows]
    places = [range(min(1, len(row) - 1), len(row)) for row in prompts]
    states = layers_of(target, Body(network), prompts, places, what)
    return torch.stack([one.levels[1:].double().mean(1) for one in states]).mean(0)


def directions(one: Tensor, other: Tensor) -> dict[int, Tensor]:
    """Block -> the unit vector from `other` to `one`, [width], where they differ.

    Args:
        one: mean states [blocks, width].
        other: the same of another model, or of other rows.
    """
    sizes = relative_sizes(one, other)
    added = one - other
    return {
        block: added[block] / added[block].norm()
        for block in range(len(added))
        if sizes[block] > NOTHING
    }


def relative_sizes(one: Tensor, other: Tensor) -> Tensor:
    """How far two mean states are apart, as a share of the second's norm, [blocks]."""
    return (one - other).norm(dim=-1) / other.norm(dim=-1)


def steepest(one: Tensor, other: Tensor) -> int:
    """The block that adds most to that distance."""
    sizes = relative_sizes(one, other)
    rises = sizes.diff(prepend=sizes.new_zeros(1))
    return int(rises.argmax())


@contextlib.contextmanager
def without(network: Any, removed: Mapping[int, Tensor]) -> Iterator[None]:
    """Within the block, each named block's output loses its part along a direction.

    Args:
        network: a causal language model.
        removed: block -> unit vector [width].
    """
    blocks = Decoder(network.get_decoder()).blocks
    handles = [
        blocks[block].register_forward_hook(_projection(direction))
        for block, direction in removed.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projection(direction: Tensor) -> Callable[..., Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        unit = direction.to(wide)
        left = (wide - (wide @ unit)[..., None] * unit).to(states.dtype)
        return (left, *output[1:]) if isinstance(output, tuple) else left

    return hook
