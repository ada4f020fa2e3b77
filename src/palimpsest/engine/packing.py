"""Rows laid end to end in one sequence: no padding, and a prompt that rows share runs once.

All layers but attention treat tokens one by one, so they take the whole sequence as it is.
Attention runs row by row: every token sees the earlier tokens of its own row alone. On CUDA that is
one variable-length kernel, elsewhere a pass for rows of similar length.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from palimpsest.engine.attention import Passes, attend_in_passes
from palimpsest.engine.rows import Row, length_groups

NAME = "palimpsest_packed"
"""What transformers calls this attention. It gets no mask from there."""

OVERHEAD = 64
"""What one more pass through attention costs, in tokens that are filled in."""

MULTIPLE = 16
"""Of so many tokens is the length of a pass: such shapes are multiplied faster."""

HALF = (torch.float16, torch.bfloat16)
"""Types of the variable-length kernel."""


@dataclass
class Packing:
    """Where the tokens of rows stand in the sequence that holds them all.

    The sequence is made of pieces: a row, or a prompt that several rows share, or one of their
    responses. A row is one piece, or a prompt and a response.

    Attributes:
        rows: rows in the order asked for; each a tuple of pieces.
        lengths: tokens of each piece, in the order of the sequence.
        firsts: position in its row of each piece's first token.
        sources: index of the row that each piece is taken from.
        device: where the model computes.
        seen: attention layers that used it.
        windowed: those of them that look at a part of the row alone.
    """

    rows: list[tuple[int, ...]]
    lengths: list[int]
    firsts: list[int]
    sources: list[int]
    device: torch.device
    seen: int = 0
    windowed: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Packing:
        """Lay out `rows`; those with the same prompt share it."""
        by_prompt: dict[Hashable, list[int]] = {}
        for i, row in enumerate(rows):
            shareable = 0 < row.prompt_length < len(row)
            by_prompt.setdefault(row.prompt.numpy().tobytes() if shareable else i, []).append(i)
        made = cls([()] * len(rows), [], [], [], device)
        for members in by_prompt.values():
            prompt = made._add(rows, members[0], 0, stop=True) if len(members) > 1 else None
            for i in members:
                if prompt is None:
                    made.rows[i] = (made._add(rows, i, 0),)
                else:
                    made.rows[i] = (prompt, made._add(rows, i, rows[i].prompt_length))
        return made

    def _add(self, rows: Sequence[Row], source: int, first: int, stop: bool = False) -> int:
        end = rows[source].prompt_length if stop else len(rows[source])
        self.lengths.append(end - first)
        self.firsts.append(first)
        self.sources.append(source)
        return len(self.lengths) - 1

    def packed(self, rows: Sequence[Tensor]) -> Tensor:
        """The sequence of what rows have per token: [rows][length, ...] to [1, T, ...]."""
        pieces = zip(self.sources, self.firsts, self.lengths, strict=True)
        return torch.cat([rows[i][first : first + n] for i, first, n in pieces])[None]

    def unpacked(self, sequence: Tensor) -> list[Tensor]:
        """What belongs to each row: [1, T, ...] to [rows][length, ...]."""
        pieces = sequence[0].split(self.lengths)
        return [
            pieces[row[0]] if len(row) == 1 else torch.cat([pieces[i] for i in row])
            for row in self.rows
        ]

    @property
    def positions(self) -> Tensor:
        """Position of every token in its row, int64 [1, T]."""
        spans = zip(self.firsts, self.lengths, strict=True)
        found = torch.cat([torch.arange(first, first + n) for first, n in spans])
        return found[None].to(self.device)

    @cached_property
    def tokens(self) -> list[Tensor]:
        """The tokens of each row in the order of the rows, as they stand in the sequence."""
        pieces = torch.arange(sum(self.lengths)).split(self.lengths)
        return [torch.cat([pieces[i] for i in row]) for row in self.rows]

    @cached_property
    def passes(self) -> Passes:
        """Rows of similar length, as they share a pass through attention."""
        groups = length_groups([len(row) for row in self.tokens], OVERHEAD)
        return Passes(self.tokens, groups, self.device, MULTIPLE)

    @cached_property
    def kernel(self) -> _Kernel:
        """What the variable-length kernel is told."""
        order = sorted(range(len(self.rows)), key=lambda i: self.rows[i][-1])
        one_by_one = Passes(self.tokens, [[i] for i in order], self.device)
        lengths = [longest for _, longest in one_by_one.shapes]
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        found = _Kernel(ends.to(self.device), max(lengths))
        if any(len(row) > 1 for row in self.rows):
            found.reads, found.keeps = one_by_one.reads, one_by_one.brought
        return found


@dataclass
class _Kernel:
    """Rows as the variable-length kernel reads them, one after another.

    Attributes:
        ends: where each row ends, after a 0, int32 [rows + 1].
        longest: tokens of the longest row.
        reads: tokens of the sequence that the rows are made of; None: as they stand.
        keeps: which of the outputs make up the sequence again; None: all of them.
    """

    ends: Tensor
    longest: int
    reads: Tensor | None = None
    keeps: Tensor | None = None


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
    """Causal attention within each row of a packed sequence; called by transformers.

    Args:
        module: the attention layer.
        query: [1, heads, T, size].
        key: [1, key heads, T, size].
        value: as `key`.
        attention_mask: not used.
        packing: where the rows stand.
        scaling: factor on the products; None: 1 / sqrt(size).
        sliding_window: a token sees so many tokens, itself included; None: all of its row.
        softcap: not known here.
        s_aux: attention sinks, not known here.

    Returns:
        [1, T, heads, size], and None.

    Raises:
        NotImplementedError: the architecture does not hand `packing` on, caps its scores or has
            attention sinks.
    """
    if packing is None or softcap is not None or s_aux is not None:
        raise NotImplementedError(f"{type(module).__name__} cannot run packed rows")
    window = sliding_window or 0
    packing.seen += 1
    packing.windowed += window > 0
    if _in_one_kernel(query, value):
        return _varlen(query[0], key[0], value[0], packing, scaling, window)[None], None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_in_passes(query[0], key[0], value[0], packing.passes, scale, window)[None], None


def _in_one_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether the variable-length kernel (FlashAttention-2) takes these states."""
    size = query.shape[-1]
    fits = query.dtype in HALF and size % 8 == 0 and size <= 256 and value.shape[-1] == size
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _varlen(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: Any, window: int) -> Tensor:
    """The same in one kernel: [heads, T, size] to [T, heads, size]."""
    from torch.nn.attention.varlen import varlen_attn

    plan = packing.kernel
    query, key, value = (
        tensor if plan.reads is None else tensor.index_select(0, plan.reads)
        for tensor in (q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1))
    )
    out: Any = varlen_attn(
        query,
        key,
        value,
        plan.ends,
        plan.ends,
        plan.longest,
        plan.longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=k.shape[0] != q.shape[0],
    )
    made: Tensor = out if plan.keeps is None else out.index_select(0, plan.keeps)
    return made


@contextlib.contextmanager
def attention_of(config: Any, name: str = NAME) -> Iterator[None]:
    """A model's attention by another function, within the block."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(NAME, attend)
