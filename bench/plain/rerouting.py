"""Circuit breakers: full passes of the trained model and of a frozen copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.plain.padding import padded
from palimpsest.engine.rows import Row


def step(
    model: Any,
    frozen: Any,
    forget: Sequence[Row],
    retain: Sequence[Row],
    blocks: Sequence[int],
    share: float,
    alpha: float,
    pad: int,
) -> dict[str, Tensor]:
    """Both weighted terms of a step; `share` is the weight of the retain term."""
    with torch.no_grad():
        broken, held = states(frozen, forget, blocks, pad), states(frozen, retain, blocks, pad)
    cosine = torch.nn.functional.cosine_similarity(
        states(model, forget, blocks, pad), broken, dim=-1
    )
    away = (states(model, retain, blocks, pad) - held).norm(dim=-1)
    return {
        "forget": alpha * (1 - share) * cosine.relu().mean(),
        "retain": alpha * share * away.mean(),
    }


def states(model: Any, rows: Sequence[Row], blocks: Sequence[int], pad: int) -> Tensor:
    """Outputs of blocks at all real tokens, [blocks, tokens, width]; the pass goes to the end."""
    ids, mask = (tensor.to(model.device) for tensor in padded(rows, pad))
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    counts = mask.bool()
    return torch.stack([output.hidden_states[block + 1][counts] for block in blocks])
