"""RMU: full passes of the trained model and of a frozen copy, of which one block is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.plain.padding import padded
from palimpsest.engine.decoder import blocks_of
from palimpsest.engine.rows import Row


def step(
    model: Any,
    frozen: Any,
    forget: Sequence[Row],
    retain: Sequence[Row],
    vector: Tensor,
    layer: int,
    alpha: float,
    skip: int,
    pad: int,
) -> dict[str, Tensor]:
    """Both weighted terms of a step.

    Args:
        model: the model that is trained.
        frozen: a second whole model, untrained.
        forget: rows whose states are turned to `vector`.
        retain: rows whose states shall stay.
        vector: the control vector [width].
        layer: block whose output is read.
        alpha: weight of the retain term.
        skip: first tokens of each row that do not count.
        pad: pad token.
    """
    turned = states(model, forget, layer, skip, pad)
    with torch.no_grad():
        before = states(frozen, retain, layer, skip, pad)
    after = states(model, retain, layer, skip, pad)
    return {
        "forget": (turned - vector).square().mean(),
        "retain": alpha * (after - before).square().mean(),
    }


def states(model: Any, rows: Sequence[Row], layer: int, skip: int, pad: int) -> Tensor:
    """Output of a block at the tokens that count, [tokens, width]; the pass goes to the end."""
    ids, mask = (tensor.to(model.device) for tensor in padded(rows, pad))
    outputs: list[Tensor] = []
    block = blocks_of(model.get_decoder())[layer]
    handle = block.register_forward_hook(
        lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        model(input_ids=ids, attention_mask=mask)
    finally:
        handle.remove()
    counts = mask.bool()
    for i, row in enumerate(rows):
        counts[i, : min(skip, len(row) - 1)] = False
    return outputs[0][counts]
