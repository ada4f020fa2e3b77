"""Causal attention of rows that lie in one sequence, where no kernel takes them as they lie.

Rows of similar length share a pass, filled up on the right: no token sees a later one, so what is
filled in reaches nothing. PyTorch's fused attention is slow on CPUs, its backward pass in bfloat16
slower than in fp32. Here both ways are a few matrix products over blocks of queries, which see the
keys up to their own end alone. With the probabilities P of a block, the gradient G of its outputs,
and the scale s::

    P = softmax(s Q K')     O = P V
    dV += P' G        dS = P * (G V' - rowsum(P * G V'))        dQ = s dS K        dK += s dS' Q

P is found at least in fp32, as in the fused pass. In long rows it is found again on the way back,
because it grows with the square of their length; that of short ones is kept, in the states' type.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from palimpsest.engine.rows import pad
from palimpsest.limits import SHORT

QUERIES = 128
"""Queries of a block."""


class Passes:
    """How the rows of a sequence share passes through attention.

    A pass is a table of places, [rows, longest], filled up on the right. Places are numbered
    through all passes, row by row.

    Args:
        tokens: the tokens of each row, indices into the sequence; rows may share tokens.
        groups: the rows of each pass; every row is in one.
        device: where the states are.
        multiple: passes are as long as the next multiple of it.

    Attributes:
        shapes: rows and length of each pass.
        reads: the token at every place, int64; 0 where a row is filled up.
        brought: for every token of the sequence, the place whose output it takes.
        again: further places of tokens that rows share.
    """

    def __init__(
        self,
        tokens: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        device: torch.device,
        multiple: int = 1,
    ) -> None:
        tables = [pad([tokens[i] for i in members]) for members in groups]
        tables = [F.pad(table, (0, -table.shape[1] % multiple)) for table in tables]
        self.shapes = [(table.shape[0], table.shape[1]) for table in tables]
        reads = torch.cat([table.flatten() for table in tables])
        brought = reads.new_empty(1 + max(int(row.max()) for row in tokens))
        held, first = [], 0
        for members, (_, longest) in zip(groups, self.shapes, strict=True):
            for i in members:
                places = torch.arange(first, first + len(tokens[i]))
                brought[tokens[i]] = places
                held.append(places)
                first += longest
        every = torch.cat(held)
        again = every[brought[reads[every]] != every]
        self.reads, self.brought, self.again = (t.to(device) for t in (reads, brought, again))
        self._of_heads: dict[int, tuple[Tensor, Tensor]] = {}

    def of_heads(self, heads: int) -> tuple[Tensor, Tensor]:
        """`reads` and `brought` where each head has a table of its own, [rows, heads, longest].

        Returns:
            The token and head (numbered ``token * heads + head``) at every place, and the place of
            every token and head.
        """
        if heads not in self._of_heads:
            head = torch.arange(heads, device=self.reads.device)
            numbers = (self.reads[:, None] * heads + head).split([n * m for n, m in self.shapes])
            reads = [
                some.view(*shape, heads).transpose(1, 2).flatten()
                for some, shape in zip(numbers, self.shapes, strict=True)
            ]
            places = torch.arange(len(self.reads) * heads, device=self.reads.device)
            brought = self.by_place(places, heads)[self.brought].flatten()
            self._of_heads[heads] = torch.cat(reads), brought
        return self._of_heads[heads]

    def tables(self, states: Tensor, heads: int) -> list[Tensor]:
        """Views of what stands at the places, one for each pass, [rows, heads, longest, ...]."""
        parts = states.split([rows * heads * longest for rows, longest in self.shapes])
        return [
            part.view(rows, heads, longest, *states.shape[1:])
            for part, (rows, longest) in zip(parts, self.shapes, strict=True)
        ]

    def by_place(self, states: Tensor, heads: int) -> Tensor:
        """The same with the heads of a place together, [places, heads, ...]."""
        return torch.cat([t.transpose(1, 2).flatten(0, 1) for t in self.tables(states, heads)])


def attend_in_passes(
    query: Tensor, key: Tensor, value: Tensor, passes: Passes, scale: float, window: int
) -> Tensor:
    """Causal attention within each row of a sequence of T tokens.

    Args:
        query: [heads, T, size].
        key: [key heads, T, size]; several heads of queries may share one of keys.
        value: [key heads, T, value size].
        passes: the rows; together they hold every token of the sequence.
        scale: factor on the products.
        window: a token sees so many tokens, itself included; 0: all of its row.

    Returns:
        [T, heads, value size].
    """
    return _Attend.apply(query, key, value, passes, scale, window)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        passes: Passes,
        scale: float,
        window: int,
    ) -> Tensor:
        ctx.passes, ctx.scale, ctx.window = passes, scale, window
        heads, tokens, _ = query.shape
        out = query.new_empty(len(passes.reads) * heads, value.shape[-1])
        tables = [passes.tables(_read(t, passes), len(t)) for t in (query, key, value)]
        kept: list[Tensor] = []
        for q, k, v, made in zip(*tables, passes.tables(out, heads), strict=True):
            kept += _outputs(q, k, v, made, scale, window, any(ctx.needs_input_grad))
        ctx.save_for_backward(query, key, value, *kept)
        return _brought(out, passes, heads).view(tokens, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        passes, whole, kept = ctx.passes, saved[:3], iter(saved[3:])
        states = [_read(state, passes) for state in whole]
        found = [torch.empty_like(state) for state in states]
        given, made = (
            zip(*(passes.tables(s, len(t)) for s, t in zip(some, whole, strict=True)), strict=True)
            for some in (states, found)
        )
        slopes = passes.tables(_slopes(outer, passes), len(whole[0]))
        for own, slope, parts in zip(given, slopes, made, strict=True):
            _gradients(own, slope, parts, ctx.scale, ctx.window, kept)
        return *(_summed(f, passes, len(t)) for f, t in zip(found, whole, strict=True)), *[None] * 3


def _read(states: Tensor, passes: Passes) -> Tensor:
    """What stands at the places, [heads, T, size] to [places of all heads, size]."""
    reads, _ = passes.of_heads(len(states))
    return states.transpose(0, 1).reshape(-1, states.shape[-1]).index_select(0, reads)


def _brought(states: Tensor, passes: Passes, heads: int) -> Tensor:
    """The outputs of every token, [places of all heads, size] to [T * heads, size]."""
    _, brought = passes.of_heads(heads)
    return states.index_select(0, brought)


def _slopes(outer: Tensor, passes: Passes) -> Tensor:
    """Gradients of what stands at the places from [T, heads, size]: 0 where nothing is brought."""
    _, heads, size = outer.shape
    _, brought = passes.of_heads(heads)
    slope = outer.new_zeros(len(passes.reads) * heads, size)
    return slope.index_copy_(0, brought, outer.reshape(-1, size))


def _summed(states: Tensor, passes: Passes, heads: int) -> Tensor:
    """Sums over the places of every token, [places of all heads, size] to [heads, T, size]."""
    found = _brought(states, passes, heads).view(len(passes.brought), heads, -1)
    if len(passes.again):
        more = passes.by_place(states, heads)[passes.again]
        found.index_add_(0, passes.reads[passes.again], more)
    return found.transpose(0, 1)


def _outputs(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float, window: int, keep: bool
) -> list[Tensor]:
    """Fill in the outputs of full rows, [rows, heads, n, value size].

    Returns:
        The probabilities of every block, if `keep` and the rows are short.
    """
    n, keep = q.shape[2], keep and q.shape[2] <= SHORT
    q, k, v, out = _by_keys(q, k, v, out)
    kept = []
    for block, p in zip(_blocks(n), _probabilities(q, k, scale, window), strict=True):
        out[:, :, block] = (p @ v[:, 0, : block.stop]).unflatten(1, (out.shape[1], -1))
        if keep:
            kept.append(p)
    return kept


def _gradients(
    states: Sequence[Tensor],
    slope: Tensor,
    found: Sequence[Tensor],
    scale: float,
    window: int,
    kept: Iterator[Tensor],
) -> None:
    """Fill in the gradients of full rows' queries, keys and values, [rows, heads, n, size].

    Args:
        states: queries, keys and values.
        slope: the gradient of the outputs.
        found: what is filled in.
        scale: factor on the products.
        window: see `attend_in_passes`.
        kept: probabilities of the blocks of short rows; those of these rows are taken off.
    """
    n, (q, k, v, g) = slope.shape[2], _by_keys(*states, slope)
    by_q, by_k, by_v = _by_keys(*found)
    probabilities = kept if n <= SHORT else _probabilities(q, k, scale, window)
    sums: list[Tensor] = []
    for block, p in zip(_blocks(n), probabilities, strict=False):
        some_q, some_g = (t[:, :, block].flatten(1, 2) for t in (q, g))
        by_p = some_g @ v[:, 0, : block.stop].transpose(1, 2)
        by_s = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
        by_q[:, :, block] = (by_s @ k[:, 0, : block.stop]).unflatten(1, (by_q.shape[1], -1))
        parts = by_s.transpose(1, 2) @ some_q, p.transpose(1, 2) @ some_g
        if not sums:  # the last block sees all keys
            sums = [part.to(_wide(part)) if block.start else part for part in parts]
            continue
        for whole, part in zip(sums, parts, strict=True):
            whole[:, : block.stop] += part
    by_k[:, 0], by_v[:, 0] = sums
    by_q *= scale
    by_k *= scale


def _by_keys(query: Tensor, key: Tensor, *others: Tensor) -> list[Tensor]:
    """Heads by the keys that they share: [rows, heads, n, size] to [all keys, heads, n, size]."""
    count = key.shape[0] * key.shape[1]
    return [t.reshape(count, -1, *t.shape[2:]) for t in (query, key, *others)]


def _blocks(n: int) -> list[slice]:
    """Blocks of n queries, the last one first; each sees the keys up to its own end."""
    return [slice(first, min(first + QUERIES, n)) for first in reversed(range(0, n, QUERIES))]


def _probabilities(q: Tensor, k: Tensor, scale: float, window: int) -> Iterator[Tensor]:
    """Probabilities of every block.

    Args:
        q: [key heads of all rows, heads that share them, n, size].
        k: [key heads of all rows, 1, n, size].
        scale: factor on the products.
        window: see `attend_in_passes`.

    Yields:
        [key heads of all rows, m, end] in the queries' type; heads that share their keys stand one
        after another, as if they were more queries.
    """
    n, kind = q.shape[2], _wide(q)
    keys = k[:, 0].to(kind).transpose(1, 2) * scale
    window = window if window < n else 0
    for block in _blocks(n):
        queries, end = block.stop - block.start, block.stop
        scores = q[:, :, block].flatten(1, 2).to(kind) @ keys[:, :, :end]
        unseen = _unseen(queries, end, window, kind, q.device)
        scores.unflatten(1, (-1, queries))[..., -unseen.shape[1] :].add_(unseen)
        yield torch.softmax(scores, -1, out=scores).to(q.dtype)


def _wide(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


@functools.lru_cache(maxsize=64)
def _unseen(queries: int, end: int, window: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """0 where a key is seen and -inf where not, for the last `queries` of `end` tokens.

    Without a window all keys before them are seen, and left out: [queries, queries].
    """
    keys = end if window else queries
    found = torch.full((queries, keys), -torch.inf, dtype=kind, device=device)
    found.triu_(1 + keys - queries)
    if window:
        found += torch.full_like(found, -torch.inf).tril_(keys - queries - window)
    return found
