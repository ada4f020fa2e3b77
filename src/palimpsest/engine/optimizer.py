"""AdamW and its schedule-free form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor

from palimpsest.config.training import Optimizer


def optimizer_of(weights: Mapping[str, Tensor], o: Optimizer) -> torch.optim.Optimizer:
    """The optimiser that `o` describes, over `weights`."""
    common: dict[str, Any] = {
        "lr": o.learning_rate,
        "betas": o.betas,
        "eps": o.eps,
        "weight_decay": o.weight_decay,
    }
    if o.name == "schedule_free":
        free = AdamWScheduleFree(
            weights.values(), **common, warmup_steps=o.warmup_steps, foreach=False
        )
        free.train()
        return free
    return torch.optim.AdamW(weights.values(), **common, foreach=False)


def average(optimizer: torch.optim.Optimizer) -> None:
    """Leave the weights at the point that the optimiser stands for.

    Schedule-free AdamW trains at y and guarantees the average x (arXiv:2405.15682); what is saved
    must be x. AdamW has no such difference.
    """
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.eval()
