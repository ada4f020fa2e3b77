"""What the processes of one job tell each other while they train.

A step's rows are split over the processes. Everything that has weights runs on a process's own rows
alone; what comes out (a number for each token; states, where an objective reads them) is put
together, so that every process has the values of all rows in their order and computes the same
loss from them as a single one would: also where a term is no plain mean, is bounded, or compares
rows. Going back, each takes the gradient of its own values, and the gradients of the trained
weights are summed. Nothing is averaged per process, so no token counts more for the company it
keeps.

This is why torch's DistributedDataParallel is not used: it averages gradients of losses that every
process makes of its own rows, and wants one forward pass a step.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from palimpsest.machines.group import Group, named_group

BUCKET_BYTES = 25 << 20
"""Gradients are summed so many bytes at a time."""

# A process that is gone is noticed otherwise; this must outlast a slow disk.
_TIMEOUT = datetime.timedelta(hours=12)

_group = Group()


def current() -> Group:
    """This process's place among those that train together; alone before `join`."""
    return _group


def join() -> Group:
    """Meet the other processes of the job, if it has some, and choose this one's device."""
    global _group
    named = named_group()
    if named.count == 1 or dist.is_initialized():
        return _group
    from accelerate import PartialState  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads are set by ourselves
        PartialState(
            cpu=not torch.cuda.is_available(),
            init_method=f"file://{named.store}",
            rank=named.rank,
            world_size=named.count,
            timeout=_TIMEOUT,
        )
    _group = named
    if not named.rank:
        how = "each with a share of the weights" if named.sharded else "each with all weights"
        print(f"on {named.count} devices, {how}", file=sys.stderr, flush=True)
    return _group


def leave() -> None:
    """Part from the others once the last step is done.

    Raises:
        SystemExit: in every process but the first: what is left to do is done once.
    """
    global _group
    if _group.count == 1:
        return
    from accelerate import PartialState

    rank, _group = _group.rank, Group()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    if rank:
        raise SystemExit(0)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run a block in the first process before the others."""
    if _group.count == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def agreed(value: bool) -> bool:
    """The first process's `value`, in all of them."""
    if _group.count == 1:
        return value
    told = torch.tensor([float(value)], device=_device())
    dist.broadcast(told, src=0)
    return bool(told.item())


def joined(own: Tensor, counts: Sequence[int], mine: Sequence[bool]) -> Tensor:
    """Values of all rows from those of each process's own rows; gradients reach the own ones.

    Args:
        own: values of this process's rows, one row after the other, [n, ...].
        counts: how many values each row has.
        mine: whether a row is this process's; each row is one process's.

    Returns:
        [sum of `counts`, ...]; the same in every process.
    """
    if _group.count == 1:
        return own
    ends = torch.tensor(counts).cumsum(0)
    spans = zip(counts, ends.tolist(), mine, strict=True)
    places = [torch.arange(end - count, end) for count, end, own_row in spans if own_row]
    index = torch.cat([torch.arange(0), *places]).to(own.device)
    whole = own.new_zeros(sum(counts), *own.shape[1:])
    whole[index] = own.detach()
    dist.all_reduce(whole)  # x + 0 is exact
    return whole.index_copy(0, index, own)


def joined_rows(own: Sequence[Tensor]) -> list[Tensor]:
    """States of all rows from each process's own, in which the rows of others are empty."""
    if _group.count == 1:
        return list(own)
    mine = [len(row) > 0 for row in own]
    lengths = torch.tensor([len(row) for row in own], device=own[0].device)
    dist.all_reduce(lengths)
    counts = lengths.tolist()
    return list(joined(torch.cat(list(own)), counts, mine).split(counts))


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Add up each weight's gradients over the processes; what has none anywhere keeps none."""
    if _group.count == 1:
        return
    trained = list(weights)
    found = torch.tensor([float(w.grad is not None) for w in trained], device=_device())
    dist.all_reduce(found)
    reached = [w for w, n in zip(trained, found.tolist(), strict=True) if n]
    for bucket in _buckets(reached):
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in bucket]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        pieces = flat.split([w.numel() for w in bucket])
        for weight, piece in zip(bucket, pieces, strict=True):
            weight.grad = piece.view_as(weight)


def _buckets(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for weight in weights:
        if bucket and size + weight.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(weight)
        size += weight.nbytes
    if bucket:
        yield bucket


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
