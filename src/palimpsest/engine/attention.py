"""Causal attention of rows that lie in one sequence, where no kernel takes them as they lie.

Rows of similar length share a pass, filled up on the right: no token sees a later one, so what is
filled in reaches nothing. PyTorch's fused attention is slow on CPUs, its backward pass in bfloat16
slower than in fp32. Here both ways are a few matrix products over blocks of queries, which see the
keys up to their own end alone. With the probabilities P of a block, the gradient G of its outputs,
and the scale s::

    P = softmax(s Q K')     O = P V
    dV += P' G        dS = P * (G V' - rowsum(P * G V'))        dQ = s dS K        dK += s dS' Q

P is found at least in fp32, as in the fused pass, and again on the way back; nothing of its size is
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from palimpsest.engine.rows import pad

QUERIES = 96
"""Queries of a block."""


class Passes:
    """How the rows of a sequence share passes through attention.

    A pass is a table of places, [rows, longest], filled up on the right. Places are numbered
    through all passes, row by row.

    Args:
        tokens: the tokens of each row, indices into the sequence; rows may share tokens.
        groups: the rows of each pass; every row is in one.
        device: where the states are.

    Attributes:
        shapes: rows and longest row of each pass.
        reads: the token at every place, int64; 0 where a row is filled up.
        brought: for every token of the sequence, the place whose output it takes.
        again: further places of tokens that rows share.
    """

    def __init__(
        self, tokens: Sequence[Tensor], groups: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        tables = [pad([tokens[i] for i in members]) for members in groups]
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
            by_token = [table.transpose(1, 2).flatten(0, 1) for table in self.tables(places, heads)]
            brought = torch.cat(by_token)[self.brought].flatten()
            self._of_heads[heads] = torch.cat(reads), brought
        return self._of_heads[heads]

    def tables(self, states: Tensor, heads: int) -> list[Tensor]:
        """Views of what stands at the places, one for each pass, [rows, heads, longest, ...]."""
        parts = states.split([rows * heads * longest for rows, longest in self.shapes])
        return [
            part.view(rows, heads, longest, *states.shape[1:])
            for part, (rows, longest) in zip(parts, self.shapes, strict=True)
        ]


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
    return _Passes.apply(query, key, value, passes, scale, window)


class _Passes(torch.autograd.Function):
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
        ctx.save_for_backward(query, key, value)
        ctx.passes, ctx.scale, ctx.window = passes, scale, window
        heads, tokens, _ = query.shape
        out = query.new_empty(len(passes.reads) * heads, value.shape[-1])
        tables = [passes.tables(_read(t, passes), len(t)) for t in (query, key, value)]
        for q, k, v, made in zip(*tables, passes.tables(out, heads), strict=True):
            _outputs(q, k, v, made, scale, window)
        return _brought(out, passes, heads).view(tokens, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        passes, whole = ctx.passes, ctx.saved_tensors
        states = [_read(state, passes) for state in whole]
        found = [torch.empty_like(state) for state in states]
        given, made = (
            zip(*(passes.tables(s, len(t)) for s, t in zip(some, whole, strict=True)), strict=True)
            for some in (states, found)
        )
        slopes = passes.tables(_slopes(outer, passes), len(whole[0]))
        for own, slope, parts in zip(given, slopes, made, strict=True):
            _gradients(own, slope, parts, ctx.scale, ctx.window)
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
        by_place = [t.transpose(1, 2).flatten(0, 1) for t in passes.tables(states, heads)]
        more = torch.cat(by_place)[passes.again]
        found.index_add_(0, passes.reads[passes.again], more)
    return found.transpose(0, 1)


def _outputs(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float, window: int) -> None:
    """Fill in the outputs of full rows, [rows, heads, n, value size]."""
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    out = out.view(len(k), -1, *out.shape[2:])
    for block, end, _, p in _blocks(q, k, scale, window):
        out[:, :, block] = (p @ v[:, :end]).unflatten(1, (out.shape[1], -1))


def _gradients(
    states: Sequence[Tensor], slope: Tensor, found: Sequence[Tensor], scale: float, window: int
) -> None:
    """Fill in the gradients of full rows' queries, keys and values, [rows, heads, n, size].

    Args:
        states: queries, keys and values.
        slope: the gradient of the outputs.
        found: what is filled in.
        scale: factor on the products.
        window: see `attend_in_passes`.
    """
    q, k, v = states[0], *(t.flatten(0, 1) for t in states[1:])
    by_q, by_k, by_v = (t.view(len(k), -1, *t.shape[2:]) for t in found)
    slope = slope.view(len(k), -1, *slope.shape[2:])
    sums: list[Tensor] = []
    for block, end, some_q, p in _blocks(q, k, scale, window):
        g = slope[:, :, block].flatten(1, 2)
        by_p = g @ v[:, :end].transpose(1, 2)
        by_s = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
        by_q[:, :, block] = (by_s @ k[:, :end]).unflatten(1, (by_q.shape[1], -1))
        parts = by_s.transpose(1, 2) @ some_q, p.transpose(1, 2) @ g
        if not sums:  # the last block sees all keys
            sums = [part.to(_wide(part)) if block.start else part for part in parts]
            continue
        for whole, part in zip(sums, parts, strict=True):
            whole[:, :end] += part
    by_k[:, 0], by_v[:, 0] = sums
    by_q *= scale
    by_k *= scale


def _blocks(
    q: Tensor, k: Tensor, scale: float, window: int
) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Blocks of queries, the last one first.

    Args:
        q: [rows, heads, n, size].
        k: [rows * key heads, n, size].
        scale: factor on the products.
        window: see `attend_in_passes`.

    Yields:
        The block, the end of the keys that it sees, its queries [rows * key heads, m, size]
        (heads that share their keys stand one after another, as if they were more queries), and
        its probabilities [rows * key heads, m, end] in the queries' type.
    """
    n, kind = q.shape[2], _wide(q)
    q = q.view(len(k), -1, *q.shape[2:])
    keys, unseen = k.to(kind).transpose(1, 2) * scale, _unseen(n, window, kind, q.device)
    every = 0 < window < n  # otherwise the keys before the block are seen
    for first in reversed(range(0, n, QUERIES)):
        end = min(first + QUERIES, n)
        some = q[:, :, first:end].flatten(1, 2)
        scores = some.to(kind) @ keys[:, :, :end]
        known = 0 if every else first
        scores.unflatten(1, (-1, end - first))[..., known:].add_(unseen[first:end, known:end])
        yield slice(first, end), end, some, torch.softmax(scores, -1, out=scores).to(q.dtype)


def _wide(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


def _unseen(n: int, window: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """0 where a token is seen and -inf where not, [n, n] (queries, keys)."""
    found = torch.full((n, n), -torch.inf, dtype=kind, device=device).triu_(1)
    if 0 < window < n:
        found += torch.full_like(found, -torch.inf).tril_(-window)
    return found
