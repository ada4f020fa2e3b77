"""Takes a part of a subject's update away, before a method trains what is left of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from palimpsest.engine import ranks
from palimpsest.engine.body import Body
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.limits import GRAM_BYTES
from palimpsest.model.trainable import Trainable


@runtime_checkable
class Shrinks(Protocol):
    """An objective that begins with less than the subject's update."""

    def left_of(self, a: Tensor, forget: Tensor | None, keep: Tensor | None) -> Tensor:
        """What stays of A [rank, inputs], given mean Gram matrices of the inputs on either rows."""


@torch.no_grad()
def shrink(
    method: Shrinks,
    trainable: Trainable,
    body: Body,
    forget: Sequence[Row],
    keep: Sequence[Row],
    label: str,
    seed: int,
) -> None:
    """Give A of the subject's adapter, which is to be trained, what the method leaves of it.

    Every row runs alone: nothing is padded, and no prompt is shared. Modules whose Gram matrices
    do not fit into `GRAM_BYTES` together have passes of their own, all with the inputs of the
    whole subject or of its base. If several processes train, the first one computes for all.

    Args:
        method: says what stays.
        trainable: the subject with its adapter.
        body: the same model.
        forget: rows to forget; empty: the inputs do not matter.
        keep: rows to keep.
        label: name of the job in progress lines.
        seed: of a module's first values where nothing of its update stays, so nothing of B either.

    Raises:
        UserError: the weights are spread over processes.
    """
    if ranks.current().sharded:
        raise UserError(
            "this method reads the inputs of all modules of the subject's adapter, which needs "
            "the whole model in each process; set parallel: ddp"
        )
    name = str(trainable.adapter)
    layers = [m for m in trainable.model.modules() if name in getattr(m, "lora_A", {})]
    if ranks.current().rank == 0:
        adapter = Adapter(body, layers, name, label)
        found = adapter.grams(forget, keep) if forget else ((m, None, None) for m in layers)
        left = [(layer, method.left_of(adapter.a(layer), f, n)) for layer, f, n in found]
        torch.manual_seed(seed)
        for layer, value in left:
            if value.any():
                adapter.a(layer).copy_(value)
            else:
                layer.reset_lora_parameters(name, True)
    ranks.send_from_first(weight.data for weight in trainable.weights.values())


class Counted(Progress):
    """Progress by rows, one by one."""

    count = 0

    def add(self, tokens: int) -> None:
        """Report one more row."""
        self.count += 1
        self.update(self.count, tokens)


class Adapter:
    """The subject's adapter, whose modules' inputs are read."""

    def __init__(self, body: Body, layers: Sequence[Any], name: str, label: str) -> None:
        """Read the `layers` of `body` that have the adapter `name`."""
        self.body, self.layers, self.name, self.label = body, layers, name, label

    def a(self, layer: Any) -> Tensor:
        """A of a module, [rank, inputs]."""
        weight: Tensor = layer.lora_A[self.name].weight
        return weight

    def grams(
        self, forget: Sequence[Row], keep: Sequence[Row]
    ) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Each module, C_F and C_N: means over rows of sum_t x_t x_t' [inputs, inputs], float64.

        C_F is the sum of those of the base and of the subject.
        """
        groups = list(self._groups())
        progress = Counted(f"{self.label} inputs", len(groups) * (2 * len(forget) + len(keep)))
        for group in groups:
            with self._off():
                base = self._gram(group, forget, progress)
            subject, kept = (self._gram(group, rows, progress) for rows in (forget, keep))
            for layer, one, other, n in zip(group, base, subject, kept, strict=True):
                yield layer, one + other, n

    @contextlib.contextmanager
    def _off(self) -> Iterator[None]:
        """Within the block the model is the base."""
        scales = [layer.scaling[self.name] for layer in self.layers]
        for layer in self.layers:
            layer.scaling[self.name] = 0.0
        try:
            yield
        finally:
            for layer, scale in zip(self.layers, scales, strict=True):
                layer.scaling[self.name] = scale

    def _gram(self, group: Sequence[Any], rows: Sequence[Row], progress: Counted) -> list[Tensor]:
        totals = [self._empty(layer) for layer in group]

        def add(total: Tensor, _: Any, args: tuple[Tensor, ...]) -> None:
            x = args[0].reshape(-1, len(total))
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            total += x.T @ x

        with contextlib.ExitStack() as hooks:
            for layer, total in zip(group, totals, strict=True):
                handle = layer.register_forward_pre_hook(partial(add, total))
                hooks.callback(handle.remove)
            for row in rows:
                self.body.hidden([row])
                progress.add(len(row))
        return [total / len(rows) for total in totals]

    def _empty(self, layer: Any) -> Tensor:
        a = self.a(layer)
        return a.new_zeros(a.shape[1], a.shape[1], dtype=torch.float64)

    def _groups(self) -> Iterator[list[Any]]:
        """Modules in order whose Gram matrices fit together; one that does not fit is alone."""
        group: list[Any] = []
        held = 0
        for layer in self.layers:
            size = 3 * 8 * self.a(layer).shape[1] ** 2
            if group and held + size > GRAM_BYTES:
                yield group
                group, held = [], 0
            group.append(layer)
            held += size
        yield group
