"""Sums of updates in a form that does not show their parts: every tensor has one update.

`palimpsest.model.adapter.add` puts the ranks of two updates side by side, so that the first of them
are the model before unlearning. Here a sum is factored anew. What is stored then follows from the
sum alone, as ``merged/`` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.tensors import one_thread
from palimpsest.model.adapter import Update
from palimpsest.model.vector import product, weight_of

LIMIT = 1e-6
"""Largest error of a stored update, relative to its Frobenius norm."""


@dataclass(frozen=True)
class Joined:
    """What a model adds to its base, with one update for each tensor.

    Attributes:
        updates: module -> update of its full rank in fp32, scale 1; none that is zero.
        deltas: base tensor -> difference.
        error: the largest of the updates' relative errors.
    """

    updates: dict[str, Update]
    deltas: dict[str, Tensor]
    error: float

    @property
    def facts(self) -> dict[str, Any]:
        """For ``model.json``: the largest rank and error."""
        if not self.updates:
            return {}
        rank = max(len(update.a) for update in self.updates.values())
        return {"refactored": {"rank": rank, "error": self.error}}


def joined(
    updates: Mapping[str, Update], deltas: Mapping[str, Tensor], limit: float = LIMIT
) -> Joined:
    """Factor every update anew; one whose tensor has a difference too is added to that.

    Args:
        updates: module -> update, perhaps of stacked ranks.
        deltas: base tensor -> difference, on any device.
        limit: an update whose factors in fp32 would be further off is stored as a difference.

    Raises:
        UserError: an update has a number that is not finite.
    """
    kept, total, errors = dict[str, Update](), dict(deltas), [0.0]
    with one_thread():  # the last bits of LAPACK's results depend on the number of threads
        for name, update in updates.items():
            weight = weight_of(name)
            found, error = refactored(update, name)
            if weight in total or error > limit:
                whole = product(update)
                if weight in total:
                    whole = whole + total[weight].detach().cpu().double()
                total[weight] = whole.float()
            elif len(found.a):
                kept[name] = found
                errors.append(error)
    return Joined(kept, total, max(errors))


def refactored(update: Update, name: str = "an update") -> tuple[Update, float]:
    """The same product in factors that are none of its parts, and the relative error.

    Thin QR of both factors and an SVD of the small core (float64) give U S V'. Singular values that
    are zero to rounding are dropped. What is stored is B = U sqrt(S) Q and A = Q' sqrt(S) V' with a
    fixed orthogonal Q, so that no choice of stored ranks is a choice of singular directions:
    without Q the first ranks would be the best approximation of their number.

    Args:
        update: any; B A is [outputs, inputs] of rank k.
        name: what the error calls it.

    Returns:
        The update in fp32, of rank at most min(k, outputs, inputs), and the Frobenius norm of the
        difference between the products over that of the product (0 where this is 0).

    Raises:
        UserError: it has a number that is not finite.
    """
    a, b = update.a.double(), update.scale * update.b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError(f"{name} has numbers that are not finite (NaN or infinity)")
    left, core_b = torch.linalg.qr(b)
    right, core_a = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(core_b @ core_a.T)
    noise = torch.finfo(torch.float64).eps * len(a) * core_b.norm() * core_a.norm()
    rank = int((s > noise).sum())
    root, turn = s[:rank].sqrt(), rotation(rank)
    new_b = ((left @ u[:, :rank]) * root @ turn).float()
    new_a = (turn.T @ (root[:, None] * v[:rank] @ right.T)).float()
    found = Update(new_a, new_b, 1.0, update.transposed)
    norm = s.norm().item()
    off = _norm(torch.cat([b, -new_b.double()], dim=1), torch.cat([a, new_a.double()]))
    return found, off / norm if rank else 0.0


def rotation(rank: int) -> Tensor:
    """The orthogonal matrix Q of a rank, always the same: [rank, rank], float64."""
    source = torch.Generator().manual_seed(0)
    drawn = torch.randn(rank, rank, generator=source, dtype=torch.float64)
    return torch.linalg.qr(drawn)[0]


def tensors_of(updates: Iterable[str], deltas: Iterable[str]) -> set[str]:
    """The base tensors that updates of modules and differences change."""
    return {*map(weight_of, updates), *deltas}


def shows_start(start: Collection[str], change: Collection[str]) -> bool:
    """Whether the model that a change started from can be had, in part, by leaving out tensors.

    A tensor of it that the change does not reach stands there as it was. A subject without 3 of its
    70 tensors knew all that it was taught (docs/remains.md).

    Args:
        start: tensors that this model changes of its base.
        change: tensors that were added to.
    """
    return bool(set(start) - set(change))


def _norm(b: Tensor, a: Tensor) -> float:
    """Frobenius norm of B A without the product."""
    core = torch.linalg.qr(b, mode="r")[1] @ torch.linalg.qr(a.T, mode="r")[1].T
    return core.norm().item()
