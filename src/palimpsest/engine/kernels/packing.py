"""Rows packed into one sequence: no padding, and a prompt that several rows share runs once.

Every layer but attention treats tokens one by one, so it takes the whole sequence as it is.
Attention keeps the rows apart: a token sees the earlier tokens of its own row alone. On CUDA one
variable-length kernel does this; elsewhere rows of similar length share a padded pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from palimpsest.engine.kernels.attention import Passes, attend_in_passes
from palimpsest.engine.rows import Row, length_groups
from palimpsest.limits import PASS_TOKENS

NAME = "palimpsest_packed"
"""Name of this attention in transformers, which then makes no mask for it."""

MULTIPLE = 16
"""Passes are padded to a multiple of this many tokens, for faster matrix products."""

LARGE_SHARED = ((8, 0), (9, 0), (10, 0))
"""Compute capabilities of A100, H100 and B200."""

HALF = (torch.float16, torch.bfloat16)
"""Number types of the variable-length kernel."""


@dataclass
class Packing:
    """Where the tokens of each row stand in the packed sequence.

    The sequence consists of pieces: whole rows, prompts that several rows share, and the responses
    to those. A row is one piece, or a prompt and a response.

    Attributes:
        rows: the pieces of each row, as indices into `lengths`.
        lengths: tokens of each piece, in the order of the sequence.
        firsts: position in its row of each piece's first token.
        sources: index of the row that each piece is cut from.
        device: where the model computes.
        modules: the attention layers that have used this packing, in order.
        windowed_layers: how many of them see a window of the row alone.
    """

    rows: list[tuple[int, ...]]
    lengths: list[int]
    firsts: list[int]
    sources: list[int]
    device: torch.device
    modules: list[nn.Module] = field(default_factory=list)
    windowed_layers: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Packing:
        """Pack `rows`; those with the same prompt share it."""
        by_prompt: dict[Hashable, list[int]] = {}
        for i, row in enumerate(rows):
            shareable = 0 < row.prompt_length < len(row)
            by_prompt.setdefault(row.prompt.numpy().tobytes() if shareable else i, []).append(i)
        packing = cls([()] * len(rows), [], [], [], device)
        for members in by_prompt.values():
            first = rows[members[0]]
            shared = len(members) > 1
            prompt = packing._add(members[0], 0, first.prompt_length) if shared else None
            for i in members:
                if prompt is None:
                    packing.rows[i] = (packing._add(i, 0, len(rows[i])),)
                else:
                    response = packing._add(i, rows[i].prompt_length, len(rows[i]))
                    packing.rows[i] = (prompt, response)
        return packing

    def _add(self, source: int, first: int, end: int) -> int:
        """Append a piece of row `source`; return the piece's index."""
        self.lengths.append(end - first)
        self.firsts.append(first)
        self.sources.append(source)
        return len(self.lengths) - 1

    def batch(self, rows: Sequence[Tensor]) -> Tensor:
        """The sequence of the rows' values per token: [rows][length, ...] to [1, T, ...]."""
        pieces = zip(self.sources, self.firsts, self.lengths, strict=True)
        return torch.cat([rows[i][first : first + n] for i, first, n in pieces])[None]

    def by_row(self, sequence: Tensor) -> list[Tensor]:
        """The values of each row: [1, T, ...] to [rows][length, ...]."""
        pieces = sequence[0].split(self.lengths)
        return [
            pieces[row[0]] if len(row) == 1 else torch.cat([pieces[i] for i in row])
            for row in self.rows
        ]

    @property
    def positions(self) -> Tensor:
        """Position of every token in its row, int64 [1, T]."""
        spans = zip(self.firsts, self.lengths, strict=True)
        positions = torch.cat([torch.arange(first, first + n) for first, n in spans])
        return positions[None].to(self.device)

    @cached_property
    def tokens(self) -> list[Tensor]:
        """Indices into the sequence of each row's tokens, in the row's order."""
        pieces = torch.arange(sum(self.lengths)).split(self.lengths)
        return [torch.cat([pieces[i] for i in row]) for row in self.rows]

    @cached_property
    def passes(self) -> Passes:
        """Rows grouped by length for `attend_in_passes`."""
        overhead = PASS_TOKENS[self.device.type]
        groups = length_groups([len(row) for row in self.tokens], overhead)
        return Passes(self.tokens, groups, self.device, MULTIPLE)

    @cached_property
    def kernel(self) -> _KernelRows:
        """Rows one after another for the variable-length kernel."""
        order = sorted(range(len(self.rows)), key=lambda i: self.rows[i][-1])
        lengths = [len(self.tokens[i]) for i in order]
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        rows = _KernelRows(ends.to(self.device), max(lengths))
        if any(len(row) > 1 for row in self.rows):
            read_at = torch.cat([self.tokens[i] for i in order])
            rows.copies = Copies.of(read_at, sum(self.lengths), self.device)
        return rows


@dataclass
class _KernelRows:
    """Rows as the variable-length kernel reads them.

    Attributes:
        ends: 0, then the end of each row, int32 [rows + 1].
        longest: tokens of the longest row.
        copies: where the kernel reads each token; None: it reads the sequence as it is.
    """

    ends: Tensor
    longest: int
    copies: Copies | None = None


@dataclass(frozen=True)
class Copies:
    """Tokens of a sequence, some of them read several times.

    Attributes:
        token_at: the token in each of n slots, int64 [n].
        slots: the slots of each of T tokens, int64 [T, most]; filled up with n.
        taken: the token whose output a slot gives; T where another slot gives it, int64 [n].
    """

    token_at: Tensor
    slots: Tensor
    taken: Tensor

    @classmethod
    def of(cls, token_at: Tensor, tokens: int, device: torch.device) -> Copies:
        """Copies of `tokens` tokens; each token gives the output of its first slot."""
        counts = torch.bincount(token_at, minlength=tokens)
        order = torch.argsort(token_at, stable=True)
        firsts = counts.cumsum(0) - counts
        numbers = torch.arange(len(token_at)) - firsts[token_at[order]]
        slots = torch.full((tokens, int(counts.max())), len(token_at))
        slots[token_at[order], numbers] = order
        taken = torch.full_like(token_at, tokens)
        taken[slots[:, 0]] = torch.arange(tokens)
        return cls(token_at.to(device), slots.to(device), taken.to(device))

    def read(self, states: Tensor) -> Tensor:
        """Copy tokens to their slots: [T, ...] to [n, ...]."""
        copied: Tensor = _Read.apply(states, self)
        return copied

    def take(self, states: Tensor) -> Tensor:
        """The outputs of the tokens: [n, ...] to [T, ...]."""
        outputs: Tensor = _Take.apply(states, self)
        return outputs


class _Read(torch.autograd.Function):
    """`index_select`, whose own backward pass sorts all indices where it is to be repeatable."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, copies: Copies) -> Tensor:
        ctx.copies = copies
        return states.index_select(0, copies.token_at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        slots = ctx.copies.slots
        copies = _and_zero(outer).index_select(0, slots.flatten())
        return copies.view(*slots.shape, *outer.shape[1:]).sum(1), None


class _Take(torch.autograd.Function):
    """The first slot of each token; in the backward pass the other slots get zeros."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, copies: Copies) -> Tensor:
        ctx.copies = copies
        return states.index_select(0, copies.slots[:, 0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        return _and_zero(outer).index_select(0, ctx.copies.taken), None


def _and_zero(states: Tensor) -> Tensor:
    return torch.cat([states, states.new_zeros(1, *states.shape[1:])])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of a packed sequence; transformers calls this.

    Args:
        module: the attention layer.
        query: [1, heads, T, size].
        key: [1, key heads, T, size].
        value: as `key`.
        attention_mask: not used.
        packing: where the rows stand.
        scaling: factor on the scores; None: 1 / sqrt(size).
        sliding_window: tokens that a token sees, itself included; None: all of its row.
        softcap: a limit of the scores: not supported.
        s_aux: attention sinks: not supported.

    Returns:
        [1, T, heads, size], and None.

    Raises:
        NotImplementedError: the architecture does not pass `packing` on, caps its scores or has
            attention sinks.
    """
    if packing is None or softcap is not None or s_aux is not None:
        raise NotImplementedError(f"{type(module).__name__} cannot run packed rows")
    window = sliding_window or 0
    packing.modules.append(module)
    packing.windowed_layers += window > 0
    if _kernel_fits(query, value):
        return attend_varlen(query[0], key[0], value[0], packing, scaling, window)[None], None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_in_passes(query[0], key[0], value[0], packing.passes, scale, window)[None], None


def _kernel_fits(query: Tensor, value: Tensor) -> bool:
    """Whether the variable-length kernel (FlashAttention-2) takes these states."""
    size = query.shape[-1]
    fits = query.dtype in HALF and size % 8 == 0 and size <= 256 and value.shape[-1] == size
    if not (query.is_cuda and fits):
        return False
    capability = torch.cuda.get_device_capability(query.device)
    # The backward pass of wider heads takes more shared memory than other cards have.
    return capability >= (8, 0) and (size <= 192 or capability in LARGE_SHARED)


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scaling: float | None,
    window: int,
) -> Tensor:
    """Causal attention within each row, in one variable-length kernel.

    Args:
        query: [heads, T, size].
        key: [key heads, T, size].
        value: as `key`.
        packing: where the rows stand.
        scaling: factor on the scores; None: 1 / sqrt(size).
        window: tokens that a token sees, itself included; 0: all of its row.

    Returns:
        [T, heads, size].
    """
    from torch.nn.attention.varlen import varlen_attn

    rows = packing.kernel
    q, k, v = (
        tensor if rows.copies is None else rows.copies.read(tensor)
        for tensor in (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
    )
    out: Any = varlen_attn(
        q,
        k,
        v,
        rows.ends,
        rows.ends,
        rows.longest,
        rows.longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=key.shape[0] != query.shape[0],
    )
    outputs: Tensor = out if rows.copies is None else rows.copies.take(out)
    return outputs


@contextlib.contextmanager
def attention_by(config: Any, name: str) -> Iterator[None]:
    """Within the block, the model with this config uses the attention called `name`."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def packed_attention(config: Any) -> AbstractContextManager[None]:
    """Within the block, the model with this config uses `attend`."""
    return attention_by(config, NAME)


AttentionInterface.register(NAME, attend)
