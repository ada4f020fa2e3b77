"""Communication between the processes of one job while they train.

A step's rows are split over the processes, and each runs the model on its own rows. The results (a
number per token, or states if an objective reads them) are gathered, so every process has the
values of all rows in order. Each computes from them the same loss as a single process would, even
if a term is no plain mean, is bounded, or compares rows. In the backward pass each process takes
the gradient of its own values, and the gradients of the trained weights are summed. Nothing is
averaged per process, so a token's weight does not depend on the rows beside it.

Torch's DistributedDataParallel does not fit: it averages the gradients of losses that each process
computes from its own rows, and needs exactly one forward pass per step.
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
"""Gradients are summed in buckets of this size."""

# `palimpsest.machines.processes` notices a dead process; this timeout must outlast a slow disk.
_TIMEOUT = datetime.timedelta(hours=12)

_group = Group()


def current() -> Group:
    """This process's place among those that train together; a group of one before `join`."""
    return _group


def join() -> Group:
    """Connect to the other processes of the job, if there are any, and choose a device."""
    global _group
    named = named_group()
    if named.count == 1 or dist.is_initialized():
        return _group
    from accelerate import PartialState  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `set_up` sets the threads
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
    """Disconnect from the other processes after the last step.

    Raises:
        SystemExit: in every process but the first, which alone does the remaining work.
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


def joined(values: Tensor, counts: Sequence[int], is_here: Sequence[bool]) -> Tensor:
    """Gather the values of all rows; gradients reach the values of this process's rows.

    Args:
        values: values of this process's rows, one row after the other, [n, ...].
        counts: number of values of each row.
        is_here: whether each row belongs to this process; every row belongs to exactly one.

    Returns:
        [sum of `counts`, ...]; the same in every process.
    """
    if _group.count == 1:
        return values
    ends = torch.tensor(counts).cumsum(0)
    spans = zip(counts, ends.tolist(), is_here, strict=True)
    places = [torch.arange(end - count, end) for count, end, here in spans if here]
    index = torch.cat([torch.arange(0), *places]).to(values.device)
    all_values = values.new_zeros(sum(counts), *values.shape[1:])
    all_values[index] = values.detach()
    dist.all_reduce(all_values)  # x + 0 is exact
    return all_values.index_copy(0, index, values)


def joined_rows(states: Sequence[Tensor]) -> list[Tensor]:
    """Gather the states of all rows; `states` has empty ones for rows of other processes."""
    if _group.count == 1:
        return list(states)
    is_here = [len(row) > 0 for row in states]
    lengths = torch.tensor([len(row) for row in states], device=states[0].device)
    dist.all_reduce(lengths)
    counts = lengths.tolist()
    return list(joined(torch.cat(list(states)), counts, is_here).split(counts))


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Sum each weight's gradients over the processes; one without any gradient keeps None."""
    if _group.count == 1:
        return
    trained = list(weights)
    counts = torch.tensor([float(w.grad is not None) for w in trained], device=_device())
    dist.all_reduce(counts)
    reached = [w for w, n in zip(trained, counts.tolist(), strict=True) if n]
    for bucket in _buckets(reached):
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in bucket]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        pieces = flat.split([w.numel() for w in bucket])
        for weight, piece in zip(bucket, pieces, strict=True):
            weight.grad = piece.view_as(weight)


def send_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if _group.count == 1:
        return
    for tensor in tensors:
        dist.broadcast(tensor, 0)


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
