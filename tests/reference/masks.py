"""Means of public releases that run over other positions than those that are meant.

PDU: open-unlearning d3d7cf9, issue #149. Restated, nothing copied.
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
