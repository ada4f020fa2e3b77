"""Teacher-forced metrics: each makes a pass over all rows, with full logits.

No metric counts the end-of-text target.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.plain.padding import full_logits, padded
from palimpsest.engine.rows import Row

Model = Any
Rows = Sequence[Row]

BATCH = 8
"""Rows of a padded batch."""


@torch.no_grad()
def predictions(model: Model, rows: Rows, tokenizer: Any) -> Iterator[tuple[Row, Tensor, Tensor]]:
    """Each row with the log-probabilities at its targets [tokens, vocabulary] and these."""
    pad = tokenizer.pad_token_id or 0
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        log_q = full_logits(model, *padded(batch, pad)).log_softmax(-1)
        for i, row in enumerate(batch):
            counts = row.response != tokenizer.eos_token_id
            at = log_q[i, row.prompt_length - 1 : len(row) - 1]
            yield row, at[counts.to(at.device)], row.response[counts].to(at.device)


def logprobs(model: Model, rows: Rows, tokenizer: Any) -> Iterator[tuple[Row, Tensor]]:
    """Each row with the log-probabilities of its targets, [tokens]."""
    for row, log_q, targets in predictions(model, rows, tokenizer):
        yield row, log_q.gather(-1, targets[:, None])[:, 0]


def probability(model: Model, rows: Rows, tokenizer: Any) -> list[float]:
    """exp of the mean log-probability of a token."""
    return [math.exp(p.mean().item()) for _, p in logprobs(model, rows, tokenizer)]


def loss(model: Model, rows: Rows, tokenizer: Any) -> list[float]:
    """Mean cost of a token, nats."""
    return [-p.mean().item() for _, p in logprobs(model, rows, tokenizer)]


def exact_memorization(model: Model, rows: Rows, tokenizer: Any) -> list[float]:
    """Share of targets that the model ranks first."""
    return [
        (log_q.argmax(-1) == targets).double().mean().item()
        for _, log_q, targets in predictions(model, rows, tokenizer)
    ]


def extraction_strength(model: Model, rows: Rows, tokenizer: Any) -> list[float]:
    """1 - k/n, k the shortest prefix after which every target is ranked first."""
    strengths = []
    for _, log_q, targets in predictions(model, rows, tokenizer):
        hits, needed = log_q.argmax(-1) == targets, 0
        for k in range(len(targets)):
            if not hits[k:].all():
                needed = k + 1
        strengths.append(1 - needed / len(targets))
    return strengths


def min_k(model: Model, rows: Rows, tokenizer: Any, share: float = 0.2) -> list[float]:
    """Mean log-probability of the least likely targets."""
    return [_lowest(p, share) for _, p in logprobs(model, rows, tokenizer)]


def min_k_plus_plus(model: Model, rows: Rows, tokenizer: Any, share: float = 0.2) -> list[float]:
    """The same in standard deviations; one pass for the targets, one for the deviations."""
    values = [p for _, p in logprobs(model, rows, tokenizer)]
    means = []
    for value, (_, log_q, _) in zip(values, predictions(model, rows, tokenizer), strict=True):
        q = log_q.exp()
        mean = (q * log_q).sum(-1)
        deviation = (q * (log_q - mean[:, None]).square()).sum(-1).sqrt()
        means.append(_lowest((value - mean) / deviation.clamp(min=1e-4), share))
    return means


def zlib_ratio(model: Model, rows: Rows, tokenizer: Any) -> list[float]:
    """Log-probability of the answer per byte of its compressed text."""
    ratios = []
    for row, p in logprobs(model, rows, tokenizer):
        text = tokenizer.decode(row.response, skip_special_tokens=True)
        ratios.append(p.sum().item() / len(zlib.compress(text.encode())))
    return ratios


METRICS: dict[str, Callable[[Model, Rows, Any], list[float]]] = {
    "probability": probability,
    "loss": loss,
    "exact_memorization": exact_memorization,
    "extraction_strength": extraction_strength,
    "min_k": min_k,
    "min_k_plus_plus": min_k_plus_plus,
    "zlib": zlib_ratio,
}
"""Eight passes in all."""


def _lowest(values: Tensor, share: float) -> float:
    count = max(1, int(len(values) * share + 1e-9))
    return values.sort().values[:count].mean().item()
