"""Task vectors: what the chain `acquire` adds to a subject, and the consensus of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palimpsest.model import delta
from palimpsest.model.adapter import Update
from palimpsest.model.description import deltas_in, updates_in
from palimpsest.model.lora import attach, set_scale


def attach_vector(
    model: Any, acquired: Path, others: Sequence[Path] = ()
) -> tuple[Any, Collection[str], Callable[[float], None]]:
    """Add a task vector, or the consensus of several, to a loaded subject, frozen.

    Returns:
        The model, the tensors that the vector changes, and the setter of its factor.

    Raises:
        UserError: a file is missing or altered, or does not fit the base.
    """
    differences = consensus_of([acquired, *others]) if others else deltas_in(acquired)
    if differences:
        delta.attach_deltas(model, differences)
        model.requires_grad_(False)
        return model, differences, partial(delta.set_factor, model)
    task_vector = updates_in(acquired)
    model = attach(model, acquired, "acquired")
    return model, task_vector, lambda factor: set_scale(model, "acquired", factor, task_vector)


def consensus_of(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The consensus of the task vectors in `folders`: base tensor -> difference, fp32.

    It is no product of low rank, whatever the vectors are, so it is made as differences. A tensor
    that one of them leaves as it is stays so.

    Raises:
        UserError: a file is missing or altered.
    """
    vectors = [(updates_in(folder), deltas_in(folder)) for folder in folders]
    names = [{*map(weight_of, updates), *deltas} for updates, deltas in vectors]
    shared = sorted(set.intersection(*names))

    def value(name: str, updates: dict[str, Update], deltas: dict[str, Tensor]) -> Tensor:
        if name in deltas:
            return deltas[name].double()
        return product(updates[name.removesuffix(weight_of(""))])

    # One tensor of all vectors at a time: dense, they are large.
    return {name: consensus([value(name, *v) for v in vectors]).float() for name in shared}


def consensus(values: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape where the signs of all agree, 0 elsewhere.

    With one tensor it is that tensor (NegMerge, arXiv:2410.05583).
    """
    stacked = torch.stack(list(values))
    signs = stacked.sign()
    return torch.where((signs == signs[0]).all(0), stacked.mean(0), 0)


def product(update: Update, rows: slice = slice(None)) -> Tensor:
    """Rows of scale B A in float64, as the module keeps W: [outputs, inputs] or transposed."""
    a, b = update.a.double(), update.scale * update.b.double()
    return a.T[rows] @ b.T if update.transposed else b[rows] @ a


def weight_of(module: str) -> str:
    """The base tensor that a low-rank update changes."""
    return f"{module}.weight"
