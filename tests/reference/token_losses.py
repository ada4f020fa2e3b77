"""Plain restatements of released losses without pairs, with their defects, in our own words.

Logits are [positions, vocabulary] of one row, or of several end to end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def npo_on_raw_logits(trained: Sequence[Tensor], subject: Sequence[Tensor], beta: float) -> Tensor:
    """MUSE's NPO: logits of all positions and tokens stand where costs of answers belong."""
    rises = torch.cat([(p - q).flatten() for q, p in zip(trained, subject, strict=True)])
    return -(2 / beta) * logsigmoid(beta * rises).mean()


def simnpo_one_token_too_long(costs: Sequence[Tensor], beta: float) -> Tensor:
    """SimNPO on plain texts: each row's cost is divided by one token too many."""
    means = torch.stack([of_row.sum() / (len(of_row) + 1) for of_row in costs])
    return -(2 / beta) * logsigmoid(beta * means).mean()


def tnpo_weights(trained: Tensor, subject: Tensor, beta: float) -> Tensor:
    """TNPO's weights of probabilities [tokens], with 1e-5 in the denominator."""
    x, p = trained**beta, subject**beta
    return 2 * x / (x + p + 1e-5)


def undial_over_all_positions(
    trained: Tensor, subject: Tensor, labels: Tensor, beta: float
) -> Tensor:
    """UNDIAL's mean over every position; a label of -100 is an index from the vocabulary's end."""
    lowered = subject.clone()
    lowered[torch.arange(len(labels)), labels] -= beta
    return -(lowered.softmax(-1) * trained.log_softmax(-1)).sum(-1).mean()
