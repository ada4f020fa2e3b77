"""AdamW, with moments in fp32 or in 8 bits, and its schedule-free form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.limits import SMALL_TENSOR
from palimpsest.model import quantized
from palimpsest.settings.training import Optimizer

AT_ONCE = 1 << 24
"""Numbers that are updated together: on a GPU in ten launches, with two copies of them in fp32."""


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """AdamW that averages its iterates instead of lowering the rate (arXiv:2405.15682).

    While training, the weights hold y; z is the base sequence, x the average. In step k = 0, 1, ...
    with gradient g at y, warm-up factor s and decay rates b1, b2::

        eta = lr s sqrt(1 - b2^(k+1));   w = (largest eta so far)^2;   c = w / (sum of all w)
        v <- b2 v + (1 - b2) g^2;        u = g / (sqrt(v) + eps) + weight_decay y
        y <- (1 - c) y + c z + eta (b1 (1 - c) - 1) u
        z <- z - eta u

    The package `schedulefree` computes this up to version 1.2.7, the one Analysis360 uses. Later
    versions move the bias correction into u and average with other weights.
    """

    def __init__(self, weights: Iterable[Tensor], warmup_steps: int, **settings: Any) -> None:
        """Train `weights`; `settings` are lr, betas, eps and weight_decay."""
        counted = {"k": 0, "weight_sum": 0.0, "eta_max": 0.0}
        super().__init__(weights, {**settings, **counted, "warmup_steps": warmup_steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step from the gradients at y."""
        for group in self.param_groups:
            (b1, b2), k = group["betas"], group["k"]
            warm = min(1.0, (k + 1) / max(group["warmup_steps"], 1))
            eta = group["lr"] * warm * math.sqrt(1 - b2 ** (k + 1))
            group["eta_max"] = max(group["eta_max"], eta)
            weight = group["eta_max"] ** 2
            group["k"], group["weight_sum"] = k + 1, group["weight_sum"] + weight
            c = weight / group["weight_sum"]
            for y in portions([y for y in group["params"] if y.grad is not None], AT_ONCE):
                gradients = [tensor.grad for tensor in y if tensor.grad is not None]
                z, v = self._states(y)
                torch._foreach_mul_(v, b2)
                torch._foreach_addcmul_(v, gradients, gradients, value=1 - b2)
                u = torch._foreach_sqrt(v)
                torch._foreach_add_(u, group["eps"])
                u = torch._foreach_div(gradients, u)
                torch._foreach_add_(u, y, alpha=group["weight_decay"])
                torch._foreach_lerp_(y, z, c)
                torch._foreach_add_(y, u, alpha=eta * (b1 * (1 - c) - 1))
                torch._foreach_sub_(z, u, alpha=eta)

    def _states(self, weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """z and v of each weight."""
        for y in weights:
            if not self.state[y]:
                self.state[y].update(z=y.detach().clone(), v=torch.zeros_like(y))
        return [self.state[y]["z"] for y in weights], [self.state[y]["v"] for y in weights]

    @torch.no_grad()
    def to_average(self) -> None:
        """Move the weights from y to x = (y - (1 - b1) z) / b1."""
        for group in self.param_groups:
            b1 = group["betas"][0]
            for y in group["params"]:
                if y in self.state:
                    y.sub_(self.state[y]["z"], alpha=1 - b1).div_(b1)


def portions(weights: Iterable[Tensor], numbers: int) -> list[list[Tensor]]:
    """`weights` in lists of one device and type: of at most `numbers` numbers, or of one tensor."""
    lists: list[list[Tensor]] = []
    taken = 0
    for weight in weights:
        last = lists[-1][-1] if lists else weight
        alike = (weight.device, weight.dtype) == (last.device, last.dtype)
        if not lists or not alike or taken + weight.numel() > numbers:
            lists.append([])
            taken = 0
        lists[-1].append(weight)
        taken += weight.numel()
    return lists


def check_installed(o: Optimizer) -> None:
    """Check, before a model is loaded, that what `o` needs is there.

    Raises:
        UserError: the library of adamw8bit is not installed.
    """
    if o.name == "adamw8bit":
        quantized.require("training.optimizer.name: adamw8bit")


def optimizer_of(weights: Mapping[str, Tensor], o: Optimizer) -> torch.optim.Optimizer:
    """The optimiser that `o` describes, over `weights`.

    Raises:
        UserError: schedule-free with a first decay rate of 0, by which its average divides; the
            library of adamw8bit is not installed.
    """
    check_installed(o)
    common: dict[str, Any] = {
        "lr": o.learning_rate,
        "betas": o.betas,
        "eps": o.eps,
        "weight_decay": o.weight_decay,
    }
    if o.name == "schedule_free":
        if not o.betas[0]:
            raise UserError(
                "training.optimizer.betas: the first one is 0, and schedule_free divides by it; "
                "use 0.9 or name: adamw"
            )
        return ScheduleFreeAdamW(weights.values(), o.warmup_steps, **common)
    if o.name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        made: torch.optim.Optimizer = AdamW8bit(
            weights.values(), **common, min_8bit_size=SMALL_TENSOR
        )
        return made
    # On a GPU one kernel updates all tensors; a loop would be a third of a step's launches.
    on_gpu = any(weight.is_cuda for weight in weights.values())
    return torch.optim.AdamW(weights.values(), **common, foreach=False, fused=on_gpu)


def average(optimizer: torch.optim.Optimizer) -> None:
    """Move the weights to the point to save.

    Schedule-free AdamW trains at y, but its guarantee is for the average x. AdamW saves the point
    at which it trains.
    """
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.to_average()
