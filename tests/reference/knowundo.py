"""Losses and labels of KnowUnDo as its public code makes them, defects included.

Written from a description of what that code does (zjunlp/KnowUnDo at 92aea2b), in our own words,
to show how ours differs; no line of it is theirs. `docs/differences.md` lists the defects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adversarial_labels(logits: Tensor, ids: Tensor) -> Tensor:
    """The best guess at each position but the token that stands *at* it, as that token's label.

    The logits [length, vocabulary] at a position predict the next token, so every label is one
    position late, and the question gets labels too.
    """
    others = logits.clone()
    others[:, -1] = -torch.inf
    return others.scatter(-1, ids[:, None], -torch.inf).argmax(-1)


def random_labels(ids: Tensor, vocabulary: int, random: torch.Generator) -> Tensor:
    """A random label for every token, those of the question included."""
    return torch.randint(vocabulary, ids.shape, generator=random)


def mixture(negatives: Sequence[str], positives: Sequence[str], ratio: int = 1) -> list[tuple]:
    """Rows with their factors; factors go on where positives have run out, so signs slip."""
    rows: list[str] = []
    factors: list[int] = []
    for i, row in enumerate(negatives):
        rows.append(row)
        factors.append(-1)
        rows += positives[i * ratio : (i + 1) * ratio]
        factors += [1] * ratio
    return list(zip(rows, factors, strict=False))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """The cross-entropy H(p, q), clamped, over every position, question and pads included."""
    return -(p * (q + 1e-12).log()).sum(-1).mean()
