"""The matrix products of a piece of work, alone: no form with these products can be faster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from forms import Done, Form

aten = torch.ops.aten
PRODUCTS = {
    *(aten.mm.default, aten.bmm.default, aten.addmm.default, aten.addmm_.default),
    *(aten.baddbmm.default, aten.baddbmm_.default),
}
"""Operators that are matrix products. (Fused attention is not among them.)"""

REPEATS = 5
"""Repeats whose products are written down; later ones begin with the first again."""

TURNS = 64 << 20
"""Bytes of operands of one kind that take turns, so that they do not all come from the cache."""


@dataclass(frozen=True)
class Operand:
    """How a factor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Random numbers that lie like this."""
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        numbers = torch.randn(max(last, 0) + 1, device=self.device).to(self.dtype)
        return numbers.as_strided(self.shape, self.stride)


Call = tuple[Callable[..., Tensor], tuple[Operand, ...]]


class Recorder(TorchDispatchMode):
    """Writes down every product that runs within it."""

    def __init__(self) -> None:
        """Nothing is written down yet."""
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Note the call, and let it run."""
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
    kinds = {operand for calls in recorded for _, operands in calls for operand in operands}
    numbers: Mapping[Operand, Iterator[Tensor]] = {kind: _turns(kind) for kind in kinds}

    @torch.no_grad()
    def run(repeat: int, _: str) -> Done:
        for product, operands in recorded[repeat % REPEATS]:
            product(*(next(numbers[operand]) for operand in operands))
        return Done(0)

    return Form(run)


def _turns(kind: Operand) -> Iterator[Tensor]:
    size = max(1, kind.dtype.itemsize * torch.Size(kind.shape).numel())
    return itertools.cycle([kind.make() for _ in range(min(8, max(1, TURNS // size)))])
