"""A model's change against its base, weighted, or trimmed to some of its singular directions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from palimpsest.attacking.weights import Change
from palimpsest.model.adapter import Update
from palimpsest.model.vector import weight_of


def scaled(change: Change, factor: float) -> Change:
    """`factor` times the change."""
    return Change(
        {name: replace(update, b=factor * update.b) for name, update in change.updates.items()},
        {name: factor * value for name, value in change.deltas.items()},
    )


def trimmed(change: Change, count: int, keep: bool) -> Change:
    """The change with or without the `count` strongest singular directions of each matrix.

    Tensors that are no matrices are left whole, or are not kept.

    Args:
        change: what a model adds to its base.
        count: directions.
        keep: keep these alone; otherwise leave them out.
    """
    both = {name for name in change.updates if weight_of(name) in change.deltas}
    deltas = dict(change.deltas) | {weight_of(name): _whole(change, name) for name in both}
    return Change(
        {
            name: _of_update(update, count, keep)
            for name, update in change.updates.items()
            if name not in both
        },
        {
            name: _of_matrix(value, count, keep) if value.ndim == 2 else value
            for name, value in deltas.items()
            if value.ndim == 2 or not keep
        },
    )


def _whole(change: Change, module: str) -> Tensor:
    whole = change.of(weight_of(module))
    assert whole is not None
    return whole


def _of_update(update: Update, count: int, keep: bool) -> Update:
    """An update in its singular directions, of which some are kept; never without any rank."""
    left, core_b = torch.linalg.qr(update.scale * update.b.double())
    right, core_a = torch.linalg.qr(update.a.double().T)
    u, s, v = torch.linalg.svd(core_b @ core_a.T)
    chosen = torch.arange(len(s)) < count
    root = (s * (chosen if keep else ~chosen)).sqrt()
    b, a = left @ u * root, root[:, None] * (v @ right.T)
    return Update(a.float(), b.float(), 1.0, update.transposed)


def _of_matrix(value: Tensor, count: int, keep: bool) -> Tensor:
    torch.manual_seed(0)
    size = min(*value.shape, count + _MORE)
    u, s, v = torch.svd_lowrank(value.float(), q=size, niter=4)
    strongest = u[:, :count] * s[:count] @ v[:, :count].T
    return strongest if keep else value - strongest


_MORE = 8
"""Directions that are looked for besides those that are wanted, so that these are exact."""
