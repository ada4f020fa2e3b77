"""The matrix products of a piece of work alone: a lower bound of its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.forms import Done, Form

aten = torch.ops.aten
PRODUCTS = {
    *(aten.mm.default, aten.bmm.default, aten.addmm.default, aten.addmm_.default),
    *(aten.baddbmm.default, aten.baddbmm_.default),
}
"""Operators that are matrix products. (Fused attention is not among them.)"""

REPEATS = 5
"""Repeats whose products are recorded; later repeats use these again, from the first on."""

POOL_BYTES = 256 << 20
"""Size of the random numbers that the factors are read from, one after the other: so a factor comes
from memory, as weights do."""


@dataclass(frozen=True)
class Operand:
    """The memory layout of a factor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def span(self) -> int:
        """Number of entries from its first to its last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


class Numbers:
    """A ring of random numbers."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Draw them."""
        count = POOL_BYTES // dtype.itemsize
        self._pool, self._next = torch.randn(count, device=device).to(dtype), 0

    def like(self, operand: Operand) -> Tensor:
        """The next numbers, in the layout of a factor."""
        if self._next + operand.span > len(self._pool):
            self._next = 0
        first, self._next = self._next, self._next + -(-operand.span // 64) * 64
        return self._pool.as_strided(operand.shape, operand.stride, first)


Call = tuple[Callable[..., Tensor], tuple[Operand, ...]]


class Recorder(TorchDispatchMode):
    """Records every product that runs within it."""

    def __init__(self) -> None:
        """Start without records."""
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Record the call, and run it."""
        if func in PRODUCTS:
            operands = tuple(
                Operand(tuple(t.shape), t.stride(), t.dtype, t.device)
                for t in args
                if isinstance(t, Tensor)
            )
            self.calls.append((func, operands))
        return func(*args, **(kwargs or {}))


def products_alone(form: Form) -> Form:
    """A form that makes the products of another one, on random numbers, and nothing else."""
    recorded = []
    for repeat in range(REPEATS):
        form.before()
        with Recorder() as recorder:
            form.run(repeat, "")
        recorded.append(recorder.calls)
    kinds = {(o.dtype, o.device) for calls in recorded for _, factors in calls for o in factors}
    numbers = {kind: Numbers(*kind) for kind in kinds}

    @torch.no_grad()
    def run(repeat: int, _: str) -> Done:
        for product, factors in recorded[repeat % REPEATS]:
            product(*(numbers[o.dtype, o.device].like(o) for o in factors))
        return Done(0)

    return Form(run)
