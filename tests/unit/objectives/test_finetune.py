"""Fine-tuning: the loss by hand, and a batch against its rows."""

from __future__ import annotations

import torch

from kit import methods
from kit.by_hand import A, B, near, stream, terms
from palimpsest.engine.stream import Stream
from reference import analysis360


def test_finetune_is_the_mean_cost_of_the_retain_rows() -> None:
    assert terms("finetune", {"retain": stream(A, B)}) == near(retain=2.25)


def test_a_batch_has_the_gradient_of_its_mean() -> None:
    """#13: accumulated over 4 rows, the released gradient is 4 times too small."""
    rows = list(methods.SETS["retain"])
    made = methods.bench("finetune", rows={"forget": 4, "retain": 4})
    found = list(made.gradients().values())
    body, weights = made.job.body, list(made.job.weights.values())
    each = [
        torch.autograd.grad(Stream([r], body.hidden([r]), body.head).nll().mean(), weights)
        for r in rows
    ]
    mean = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
    theirs = [analysis360.accumulated(parts, 4) for parts in zip(*each, strict=True)]
    for a, b, c in zip(found, mean, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(4 * c, b, rtol=1e-6, atol=1e-9)
