"""Causal attention over packed rows, for devices without a variable-length kernel.

Rows of similar length share a pass, padded on the right: no token sees a later one, so padding
reaches nothing. PyTorch's fused attention is slow on CPUs, and its backward pass is slower in
bfloat16 than in fp32. Here both directions are a few matrix products over blocks of queries; each
block sees the keys up to its own end. With the probabilities P of a block, the gradient G of its
outputs, and the scale s::

    P = softmax(s Q K')     O = P V
    dV += P' G        dS = P * (G V' - rowsum(P * G V'))        dQ = s dS K        dK += s dS' Q

P is computed in at least fp32, as in the fused pass. It grows with the square of a row's length, so
the backward pass computes it again for long rows; for short rows it is saved, in the states' type.
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
    """How the rows of a sequence share padded passes through attention.

    A pass is a table of slots, [rows, longest], padded on the right. Slots are numbered through all
    passes, row by row.

    Args:
        tokens: indices into the sequence of each row's tokens; rows may share tokens.
        groups: indices of the rows of each pass.
        device: where the model computes.
        multiple: passes are padded to a multiple of this many tokens.

    Attributes:
        shapes: rows and longest row of each pass.
        token_at: the token in every slot, int64; 0 in padding.
        output_at: for every token of the sequence, the slot whose output it takes.
        shared: further slots of tokens that rows share.
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
        token_at = torch.cat([table.flatten() for table in tables])
        output_at = token_at.new_empty(1 + max(int(row.max()) for row in tokens))
        filled, first = [], 0
        for members, (_, longest) in zip(groups, self.shapes, strict=True):
            for i in members:
                slots = torch.arange(first, first + len(tokens[i]))
                output_at[tokens[i]] = slots
                filled.append(slots)
                first += longest
        slots = torch.cat(filled)
        shared = slots[output_at[token_at[slots]] != slots]
        self.token_at, self.output_at, self.shared = (
            t.to(device) for t in (token_at, output_at, shared)
        )
        self._per_head: dict[int, tuple[Tensor, Tensor]] = {}

    def per_head(self, heads: int) -> tuple[Tensor, Tensor]:
        """`token_at` and `output_at` where each head has its own table, [rows, heads, longest].

        Returns:
            The token and head (numbered ``token * heads + head``) in every slot, and the slot of
            every token and head.
        """
        if heads not in self._per_head:
            head = torch.arange(heads, device=self.token_at.device)
            numbers = self.token_at[:, None] * heads + head
            parts = numbers.split([rows * longest for rows, longest in self.shapes])
            token_at = [
                part.view(*shape, heads).transpose(1, 2).flatten()
                for part, shape in zip(parts, self.shapes, strict=True)
            ]
            slots = torch.arange(len(self.token_at) * heads, device=self.token_at.device)
            output_at = self.by_slot(slots, heads)[self.output_at].flatten()
            self._per_head[heads] = torch.cat(token_at), output_at
        return self._per_head[heads]

    def tables(self, states: Tensor, heads: int) -> list[Tensor]:
        """Views of each pass: [slots of all heads, ...] to [rows, heads, longest, ...]."""
        parts = states.split([rows * heads * longest for rows, longest in self.shapes])
        return [
            part.view(rows, heads, longest, *states.shape[1:])
            for part, (rows, longest) in zip(parts, self.shapes, strict=True)
        ]

    def by_slot(self, states: Tensor, heads: int) -> Tensor:
        """The heads of each slot together: [slots of all heads, ...] to [slots, heads, ...]."""
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
        scale: factor on the scores.
        window: tokens that a token sees, itself included; 0: all of its row.

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
        out = query.new_empty(len(passes.token_at) * heads, value.shape[-1])
        tables = [passes.tables(_gather(t, passes), len(t)) for t in (query, key, value)]
        saved: list[Tensor] = []
        for q, k, v, o in zip(*tables, passes.tables(out, heads), strict=True):
            saved += _outputs(q, k, v, o, scale, window, any(ctx.needs_input_grad))
        ctx.save_for_backward(query, key, value, *saved)
        return _outputs_of_tokens(out, passes, heads).view(tokens, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        passes, (query, key, value, *saved) = ctx.passes, ctx.saved_tensors
        inputs = (query, key, value)
        states = [_gather(tensor, passes) for tensor in inputs]
        gradients = [torch.empty_like(state) for state in states]

        def tables(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
            parts = (passes.tables(t, len(i)) for t, i in zip(tensors, inputs, strict=True))
            return zip(*parts, strict=True)

        slopes = passes.tables(_scatter(outer, passes), len(query))
        probabilities = iter(saved)
        for qkv, slope, by_qkv in zip(tables(states), slopes, tables(gradients), strict=True):
            _fill_gradients(qkv, slope, by_qkv, ctx.scale, ctx.window, probabilities)
        summed = (_sum(g, passes, len(i)) for g, i in zip(gradients, inputs, strict=True))
        return *summed, None, None, None


def _gather(states: Tensor, passes: Passes) -> Tensor:
    """Copy tokens to their slots: [heads, T, size] to [slots of all heads, size]."""
    token_at, _ = passes.per_head(len(states))
    return states.transpose(0, 1).reshape(-1, states.shape[-1]).index_select(0, token_at)


def _outputs_of_tokens(states: Tensor, passes: Passes, heads: int) -> Tensor:
    """The outputs of every token: [slots of all heads, size] to [T * heads, size]."""
    _, output_at = passes.per_head(heads)
    return states.index_select(0, output_at)


def _scatter(outer: Tensor, passes: Passes) -> Tensor:
    """Copy the output gradient [T, heads, size] to the slots; 0 where no output is taken."""
    _, heads, size = outer.shape
    _, output_at = passes.per_head(heads)
    slope = outer.new_zeros(len(passes.token_at) * heads, size)
    return slope.index_copy_(0, output_at, outer.reshape(-1, size))


def _sum(states: Tensor, passes: Passes, heads: int) -> Tensor:
    """Sum over the slots of every token: [slots of all heads, size] to [heads, T, size]."""
    sums = _outputs_of_tokens(states, passes, heads).view(len(passes.output_at), heads, -1)
    if len(passes.shared):
        more = passes.by_slot(states, heads)[passes.shared]
        sums.index_add_(0, passes.token_at[passes.shared], more)
    return sums.transpose(0, 1)


def _outputs(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float, window: int, keep: bool
) -> list[Tensor]:
    """Fill in the outputs of one pass, [rows, heads, n, value size].

    Returns:
        The probabilities of every block, if `keep` and the rows are short.
    """
    n, keep = q.shape[2], keep and q.shape[2] <= SHORT
    q, k, v, out = _by_key_head(q, k, v, out)
    saved = []
    for block, p in zip(_blocks(n), _probabilities(q, k, scale, window), strict=True):
        out[:, :, block] = (p @ v[:, 0, : block.stop]).unflatten(1, (out.shape[1], -1))
        if keep:
            saved.append(p)
    return saved


def _fill_gradients(
    states: Sequence[Tensor],
    slope: Tensor,
    gradients: Sequence[Tensor],
    scale: float,
    window: int,
    saved: Iterator[Tensor],
) -> None:
    """Fill in the gradients of one pass, [rows, heads, n, size].

    Args:
        states: queries, keys and values.
        slope: the gradient of the outputs.
        gradients: where those of queries, keys and values go.
        scale: factor on the scores.
        window: see `attend_in_passes`.
        saved: probabilities of the blocks of short rows; those of this pass are taken from it.
    """
    n, (q, k, v, g) = slope.shape[2], _by_key_head(*states, slope)
    by_q, by_k, by_v = _by_key_head(*gradients)
    probabilities = saved if n <= SHORT else _probabilities(q, k, scale, window)
    sums: list[Tensor] = []
    for block, p in zip(_blocks(n), probabilities, strict=False):
        block_q, block_g = (t[:, :, block].flatten(1, 2) for t in (q, g))
        by_p = block_g @ v[:, 0, : block.stop].transpose(1, 2)
        by_s = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
        by_q[:, :, block] = (by_s @ k[:, 0, : block.stop]).unflatten(1, (by_q.shape[1], -1))
        parts = by_s.transpose(1, 2) @ block_q, p.transpose(1, 2) @ block_g
        if not sums:  # the last block comes first; it sees all keys
            sums = [part.to(_at_least_fp32(part)) if block.start else part for part in parts]
            continue
        for total, part in zip(sums, parts, strict=True):
            total[:, : block.stop] += part
    by_k[:, 0], by_v[:, 0] = sums
    by_q *= scale
    by_k *= scale


def _by_key_head(query: Tensor, key: Tensor, *others: Tensor) -> list[Tensor]:
    """Group heads by the keys they share: [rows, heads, n, size] to [all keys, heads, n, size]."""
    count = key.shape[0] * key.shape[1]
    return [t.reshape(count, -1, *t.shape[2:]) for t in (query, key, *others)]


def _blocks(n: int) -> list[slice]:
    """Blocks of n queries, the last one first; each sees the keys up to its own end."""
    return [slice(first, min(first + QUERIES, n)) for first in reversed(range(0, n, QUERIES))]


def _probabilities(q: Tensor, k: Tensor, scale: float, window: int) -> Iterator[Tensor]:
    """Compute the probabilities of every block.

    Args:
        q: [key heads of all rows, heads that share them, n, size].
        k: [key heads of all rows, 1, n, size].
        scale: factor on the scores.
        window: see `attend_in_passes`.

    Yields:
        [key heads of all rows, m, end] in the queries' type; heads that share their keys follow one
        another, as if they were more queries.
    """
    n, kind = q.shape[2], _at_least_fp32(q)
    keys = k[:, 0].to(kind).transpose(1, 2) * scale
    window = window if window < n else 0
    for block in _blocks(n):
        queries, end = block.stop - block.start, block.stop
        scores = q[:, :, block].flatten(1, 2).to(kind) @ keys[:, :, :end]
        mask = _mask(queries, end, window, kind, q.device)
        scores.unflatten(1, (-1, queries))[..., -mask.shape[1] :].add_(mask)
        yield torch.softmax(scores, -1, out=scores).to(q.dtype)


def _at_least_fp32(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


@functools.lru_cache(maxsize=64)
def _mask(queries: int, end: int, window: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """0 where a key is seen and -inf elsewhere, for the last `queries` of `end` tokens.

    Without a window, all keys before these tokens are seen and left out: [queries, queries].
    """
    keys = end if window else queries
    mask = torch.full((queries, keys), -torch.inf, dtype=kind, device=device)
    mask.triu_(1 + keys - queries)
    if window:
        mask += torch.full_like(mask, -torch.inf).tril_(keys - queries - window)
    return mask
