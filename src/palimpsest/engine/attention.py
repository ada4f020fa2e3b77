"""Causal attention of rows that lie in one sequence, where no kernel takes them as they lie.

Rows of similar length share a pass, filled up on the right: no token sees a later one, so what is
filled in reaches nothing. Forward that is PyTorch's fused attention. Its backward pass is slow on
CPUs, in bfloat16 slower than in fp32, and would go through a node for every piece of every row;
here all rows have one node, and going back is a few matrix products over blocks of queries, which
see the keys up to their own end alone. With the probabilities P of a block, the gradient G of its
outputs, and the scale s::

    dV += P' G        dS = P * (G V' - rowsum(P * G V'))        dQ = s dS K        dK += s dS' Q

P is computed again, at least in fp32 as the fused pass does; nothing of its size is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERIES = 128
"""Queries of a block."""


@dataclass(frozen=True)
class Span:
    """A piece of a row in the sequence.

    Attributes:
        start: where it begins in the sequence.
        first: where it begins in its row.
        length: its tokens.
        brings: whether the row's outputs there are wanted (of a prompt that rows share, once).
    """

    start: int
    first: int
    length: int
    brings: bool

    @property
    def there(self) -> slice:
        """Its place in the sequence."""
        return slice(self.start, self.start + self.length)

    @property
    def here(self) -> slice:
        """Its place in the row."""
        return slice(self.first, self.first + self.length)


@dataclass(frozen=True)
class Group:
    """Rows that share a pass, each made of its spans; `longest` is the length of the longest."""

    rows: Sequence[Sequence[Span]]
    longest: int


def attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group], scale: float, window: int
) -> Tensor:
    """Causal attention within each row of a sequence of T tokens.

    Args:
        query: [heads, T, size].
        key: [key heads, T, size]; several heads of queries may share one of keys.
        value: [key heads, T, value size].
        groups: the rows; together they bring every token of the sequence once.
        scale: factor on the products.
        window: a token sees so many tokens, itself included; 0: all of its row.

    Returns:
        [T, heads, value size].
    """
    return _Grouped.apply(query, key, value, groups, scale, window)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: Sequence[Group],
        scale: float,
        window: int,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.groups, ctx.scale, ctx.window = groups, scale, window
        out = query.new_empty(query.shape[1], len(query), value.shape[-1])
        for group in groups:
            q, k, v = (_gathered(t, group) for t in (query, key, value))
            n = group.longest
            mask = _unseen(n, window, q) == 0 if 0 < window < n else None
            made = F.scaled_dot_product_attention(
                q,
                k,
                v,
                mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=len(query) != len(key),
            ).transpose(1, 2)
            for own, span in _spans(made, group):
                if span.brings:
                    out[span.there] = own[span.here]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        states = ctx.saved_tensors
        found = [torch.zeros_like(state) for state in states]
        by_out = outer.transpose(0, 1)
        for group in ctx.groups:
            q, k, v = (_gathered(state, group) for state in states)
            made = _gradients(
                q, k, v, _gathered(by_out, group, brought=True), ctx.scale, ctx.window
            )
            for whole, part in zip(found, made, strict=True):
                for own, span in _spans(part, group):
                    whole[:, span.there] += own[:, span.here]
        return *found, None, None, None


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, outer: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of full rows [rows, heads, n, size] from that of their outputs."""
    n = query.shape[2]
    # Heads that share their keys stand one after another, as if they were more queries.
    k, v = key.flatten(0, 1), value.flatten(0, 1)
    q, g = (t.reshape(len(k), -1, n, t.shape[-1]) for t in (query, outer))
    kind = torch.promote_types(q.dtype, torch.float32)
    wide, unseen = (
        k.to(kind).transpose(1, 2) * scale,
        _unseen(n, window, q.new_empty(0, dtype=kind)),
    )
    by_q = torch.empty_like(q)
    by_k, by_v = (torch.zeros_like(t, dtype=kind) for t in (k, v))
    for first in range(0, n, QUERIES):
        end = min(first + QUERIES, n)
        some_q, some_g = (t[:, :, first:end].flatten(1, 2) for t in (q, g))
        scores = some_q.to(kind) @ wide[:, :, :end]
        scores.unflatten(1, (-1, end - first)).add_(unseen[first:end, :end])
        p = torch.softmax(scores, -1, out=scores).to(q.dtype)
        by_p = some_g @ v[:, :end].transpose(1, 2)
        by_s = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype).mul_(scale)
        by_q[:, :, first:end] = (by_s @ k[:, :end]).unflatten(1, (-1, end - first))
        by_k[:, :end] += by_s.transpose(1, 2) @ some_q
        by_v[:, :end] += p.transpose(1, 2) @ some_g
    return by_q.view_as(query), by_k.to(k.dtype).view_as(key), by_v.to(v.dtype).view_as(value)


def _unseen(n: int, window: int, like: Tensor) -> Tensor:
    """0 where a token is seen and -inf where not, [n, n] (queries, keys)."""
    found = torch.full((n, n), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
    if 0 < window < n:
        found += torch.full_like(found, -torch.inf).tril_(-window)
    return found


def _gathered(sequence: Tensor, group: Group, brought: bool = False) -> Tensor:
    """Rows of a group, [heads, T, size] to [rows, heads, longest, size], filled up with zeros.

    Args:
        sequence: what is gathered.
        group: the rows.
        brought: leave zeros where a row does not bring the outputs.
    """
    if len(group.rows) == len(group.rows[0]) == 1:
        return sequence[None, :, group.rows[0][0].there]
    heads, _, size = sequence.shape
    found = sequence.new_zeros(len(group.rows), heads, group.longest, size)
    for own, span in _spans(found, group):
        if span.brings or not brought:
            own[:, span.here] = sequence[:, span.there]
    return found


def _spans(rows: Tensor, group: Group) -> Iterator[tuple[Tensor, Span]]:
    for own, spans in zip(rows, group.rows, strict=True):
        for span in spans:
            yield own, span
