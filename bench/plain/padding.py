"""Common parts of the plain forms: padded batches, and the cost of answers over full logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.engine.rows import Row


def padded(rows: Sequence[Row], pad: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of a batch, [rows, longest] (or [rows, length] if that is more)."""
    longest = max(length, *map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row.ids
        mask[i, : len(row)] = 1
    return ids, mask


def full_logits(model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits at every position, [rows, longest, vocabulary], at least fp32."""
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def answer_costs(logits: Tensor, ids: Tensor, rows: Sequence[Row]) -> list[Tensor]:
    """Cost of every answer token of each row, nats, [tokens].

    The cost is computed at every position of a row, prompt and padding too, and then selected.
    """
    ids = ids.to(logits.device)
    costs = []
    for i, row in enumerate(rows):
        row_costs = F.cross_entropy(logits[i, :-1], ids[i, 1:], reduction="none")
        costs.append(row_costs[row.prompt_length - 1 : len(row) - 1])
    return costs
