"""What a model adds to its base, tensor by tensor, and a network in which that can be weighted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.model.adapter import Update
from palimpsest.model.delta import base_tensors
from palimpsest.model.description import check_base, deltas_in, updates_in
from palimpsest.model.lora import attach_updates
from palimpsest.model.unlearned import ready
from palimpsest.model.vector import product, weight_of


@dataclass(frozen=True)
class Change:
    """What a model adds to its base.

    Attributes:
        updates: module -> low-rank update.
        deltas: base tensor -> difference, fp32.
    """

    updates: Mapping[str, Update]
    deltas: Mapping[str, Tensor]

    @property
    def tensors(self) -> set[str]:
        """The base tensors that change."""
        return {*map(weight_of, self.updates), *self.deltas}

    def of(self, name: str) -> Tensor | None:
        """The whole difference of a base tensor, fp32 in its shape; None: it has none."""
        update = self.updates.get(name.removesuffix(weight_of("")))
        whole = None if update is None else product(update)
        if name in self.deltas:
            whole = self.deltas[name].double() if whole is None else whole + self.deltas[name]
        return None if whole is None else whole.float()


def change_of(folder: Path, base: Path) -> Change:
    """What the model in `folder` adds to `base`.

    Raises:
        UserError: a file is missing or altered, or the model was made from another base.
    """
    check_base(folder, base)
    return Change(updates_in(folder), deltas_in(folder))


def linear_layers(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """Name of its weight in the base -> each linear layer but the head.

    GPT-2's ``Conv1D``, which keeps W as [inputs, outputs], is one.
    """
    head = network.get_output_embeddings()
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            yield weight_of(name), module


class Weighted:
    """A base with what a model adds to it; each rank and each difference has a factor.

    Updates stay apart from the weights, as in every other job: bfloat16 would lose most of a small
    one.

    Attributes:
        network: the network, with factor 1 everywhere.
    """

    def __init__(self, network: nn.Module, base: Path, change: Change) -> None:
        """Add `change` to the base `network` that was loaded from the folder `base`."""
        self._places = {name: getattr(*base_tensors(network)[name][0]) for name in change.deltas}
        self._plain = {name: weight.clone() for name, weight in self._places.items()}
        self._change = change
        self._b: dict[str, Tensor] = {}
        if change.updates:
            network, self._b = attach_updates(network, change.updates, "unlearned", base)
        self.network = ready(network)
        self.set({}, change.deltas)

    @torch.no_grad()
    def set(self, factors: Mapping[str, Tensor], deltas: Mapping[str, Tensor]) -> None:
        """Weight the parts anew.

        Args:
            factors: module -> factor of each rank of its update, [rank]; others have 1.
            deltas: base tensor -> difference; others of the model's have none.
        """
        for name, weight in self._b.items():
            b = self._change.updates[name].b
            # In place, by which the layers see that they have to join their adapters anew.
            weight.copy_(b * factors[name].to(b.dtype) if name in factors else b)
        for name, weight in self._places.items():
            plain = self._plain[name]
            added = deltas.get(name)
            weight.copy_(plain if added is None else plain + added.to(plain.device))
