"""Means of public releases that run over other positions than those that are meant.

PDU: open-unlearning d3d7cf9 (its issue 149); RR: circuit-breakers-eval 473b62e. Restated, nothing
copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest.engine.rows import Row


def pdu(rows: Sequence[Row], logits: Sequence[Tensor]) -> Tensor:
    """PDU's forget term: the mask of the labels is not shifted.

    So the logits at an answer token count, not those that predict it: what predicts the first one
    is left out, what comes after the last one is in.

    Args:
        rows: the rows.
        logits: of each row, [length, vocabulary].
    """
    at_answers = [z[row.prompt_length :] for row, z in zip(rows, logits, strict=True)]
    z = torch.cat(at_answers)
    return (z.amax(-1) - z.mean(-1)).square().mean()


def rr_retain(levels: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], longest: int) -> Tensor:
    """RR's retain term (circuit breakers): states of padding are 0 in both models, and count.

    Args:
        levels: states of each row, [length, width], now and untrained, at each level.
        longest: positions to which rows are padded.
    """

    def padded(rows: Sequence[Tensor]) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows]
        )

    each = [(padded(now) - padded(before)).norm(dim=-1).mean() for now, before in levels]
    return torch.stack(each).mean()
