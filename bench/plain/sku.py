"""SKU, stage 1: three padded passes of the trained model, one of a second model as the reference.

The random answers are texts: each step decodes its prompts, puts prompt and answer together and
tokenizes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.plain.padding import answer_costs, full_logits, padded
from palimpsest.engine.rows import Row
from palimpsest.objectives.sku import Sku


def step(
    model: Any,
    reference: Any,
    tokenizer: Any,
    forget: Sequence[Row],
    answers: Sequence[Sequence[Row]],
    normal: Sequence[Row],
    settings: Sku,
) -> dict[str, Tensor]:
    """The three weighted terms of a step; the graphs of all of them live until the backward pass.

    Args:
        model: the model that is trained.
        reference: a second whole model, untrained.
        tokenizer: tokenizer of both.
        forget: rows to acquire.
        answers: for each forget row, the rows whose answers it gets.
        normal: rows on which both models are compared (at all positions).
        settings: weights, sign and cap.
    """
    pad, w = tokenizer.pad_token_id or 0, settings.weights
    joined = [
        mismatched(tokenizer, row, other)
        for row, others in zip(forget, answers, strict=True)
        for other in others
    ]
    kl = divergence(model, reference, normal, pad)
    p = settings.preservation
    return {
        "forget": w.forget * answer_cost(model, forget, pad),
        "random": w.random * answer_cost(model, joined, pad),
        "preserve": w.preserve * (-kl.clamp(max=p.cap) if p.sign < 0 else p.sign * kl),
    }


def mismatched(tokenizer: Any, row: Row, other: Row) -> Row:
    """The prompt of one row with the answer of another, by way of their texts."""
    prompt, answer = (
        tokenizer.encode(
            tokenizer.decode(ids, clean_up_tokenization_spaces=False), add_special_tokens=False
        )
        for ids in (row.prompt, other.response)
    )
    return Row(f"{row.id}+{other.id}", torch.tensor(prompt + answer), len(prompt))


def answer_cost(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Mean over rows of the mean cost of the row's answer."""
    ids, mask = padded(rows, pad)
    costs = answer_costs(full_logits(model, ids, mask), ids, rows)
    return torch.stack([cost.mean() for cost in costs]).mean()


def divergence(model: Any, reference: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """KL(p || q) from the reference (p), the mean over all positions that predict a token."""
    ids, mask = padded(rows, pad)
    with torch.no_grad():
        log_p = full_logits(reference, ids, mask).log_softmax(-1)
    log_q = full_logits(model, ids, mask).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[:, :-1]
    counts = mask[:, 1:].to(kl)
    return (kl * counts).sum() / counts.sum()
