"""The losses of SKU and LLMU as their public code computes them, defects included.

Written from a description of what that code does, in our own words, to show how ours differs; no
line of it is theirs. `llm_unlearn` is kevinyaobytedance/llm_unlearn at 647f309, `SKU` is
franciscoliu/SKU at a17663f. `docs/differences.md` lists the defects.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

OPT_PAD = 1
"""The pad id that both repositories write as a number, whatever the tokenizer's is."""


def answer_loss(model: Any, ids: Tensor, start: int, pad: int) -> Tensor:
    """Loss of one row, [length]: positions are weighted as inputs, losses counted as targets.

    With answer tokens a_1..a_n this is 1/n sum_{j>=2} -log q(a_j): the first answer token is never
    trained. A pad that is not `OPT_PAD` stays in the divisor.
    """
    log_q = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    weight = torch.tensor([float(t >= start and ids[t] != OPT_PAD) for t in range(len(ids))])
    weight = weight.to(log_q) / weight.sum()
    loss = torch.zeros((), dtype=log_q.dtype)
    for t in range(len(ids) - 1):
        if ids[t + 1] != pad:
            loss = loss - weight[t] * log_q[t, ids[t + 1]]
    return loss


def answer_start(prompt_ids: list[int], longest: int | None) -> int:
    """First "answer" position of a forget row: the length of the tokenized prompt, less one.

    The prompt is tokenized with padding to the tokenizer's own longest length, so that a finite
    one puts the start at the last position.
    """
    return (len(prompt_ids) if longest is None else longest) - 1


RANDOM_START = 2
"""Start of a "random answer": the number of fields of the tokenizer's result, not of tokens."""


def preservation_sku(p: Tensor, q: Tensor) -> Tensor:
    """SKU's "reverse KL": minus the forward divergence, over every position, without a bound."""
    return -(p * ((p + 1e-12) / q).log()).sum(-1).mean()


def normal_llmu(p: Tensor, q: Tensor) -> Tensor:
    """LLMU's "KL": the cross-entropy H(p, q), clamped, over every position, pads included."""
    return -(p * (q + 1e-12).log()).sum(-1).mean()


def forget_order(rows: int, batch: int, normal_batches: int, max_steps: int) -> list[int]:
    """Indices of the forget rows read: in file order, from the start again in every pass.

    A pass ends with the shorter loader, and the step limit is looked at between passes only.
    """
    read: list[int] = []
    steps = 0
    while steps < max_steps:
        for step in range(min(normal_batches, rows // batch)):
            read += range(step * batch, (step + 1) * batch)
            steps += 1
    return read


def linear_rate(step: int, horizon: int = 1000) -> float:
    """Factor on the learning rate: 0 from the horizon on, while the steps go on."""
    return max(0.0, 1 - step / horizon)


def chunked_negation(
    original: dict[str, Tensor], acquired: dict[str, Tensor], chunk: int
) -> dict[str, Tensor]:
    """The memory-saving variant: tensors are read when their chunk's turn comes.

    A tied tensor stands in the state dict twice; in different chunks it is changed twice.
    """
    weights = dict(original)
    names = list(weights)
    vectors = {name: acquired[name].clone() - original[name].clone() for name in names}
    for first in range(0, len(names), chunk):
        for name in names[first : first + chunk]:
            weights[name].sub_(vectors[name])  # in place: a tied tensor shares its storage
    return weights
