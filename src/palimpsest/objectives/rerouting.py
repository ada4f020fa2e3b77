"""RR: representation rerouting, known as circuit breakers (arXiv:2406.04313).

With h_t the output of a block at token t, and h0_t that of the untrained model::

    L_f = mean relu(cos(h_t, h0_t))     over the chosen blocks and all tokens of forget rows
    L_r = mean |h_t - h0_t|             over the levels and all tokens of retain rows
    L   = alpha ((1 - k) L_f + k L_r),  k = retain_share * the steps done as a share of all

Tokens of the prompt count as those of the answer do; there is no padding that could. The states of
forget rows end at right angles to where they were, so L_f is bounded. The published run has 150
steps and k = step/300, that is ``retain_share: 0.5``. The pass ends at the highest block, blocks
above it get no adapter, and untrained states come from the first values of what is trained: there
is no second model.

The cosine of a state with itself is at its maximum, so L_f has no slope at the start: what the
first steps follow are roundings, which AdamW makes as large as its ``eps`` lets it. Away from there
the slope falls with 1/|h|, while that of L_r does not. So where states are long (small models have
numbers in them that stand above all others), L_r holds everything and nothing is forgotten, unless
``retain_share`` is of the order of 1/|h|: at blocks 22 to 26 of the embedded subject |h| is 300 to
500, where 0.01 turns nothing (cosines stay at 0.9999) and 0.001 turns the forget rows to 0.03.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.types import EACH_ONCE, Block, Fraction, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Rerouting(Unlearning):
    """RR: settings and loss."""

    algorithm: Literal["rr"]
    """Turn the states of forget rows away from where they were, hold those of retain rows."""
    blocks: Annotated[list[Block], Field(min_length=1), EACH_ONCE]
    """Blocks whose outputs are turned (0-based)."""
    levels: Literal["chosen", "every"] = "chosen"
    """Where retain rows are held: at these blocks, or at every trained one up to the highest."""
    alpha: Positive = 10.0
    """Weight of both terms."""
    retain_share: Fraction = 0.5
    """k after the last step; it rises from 0."""

    tunes = (*Unlearning.tunes, "alpha")

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        return {
            "forget": Draw(self.rows.forget, ("forget",), forgets=True),
            "retain": Draw(self.rows.retain, ("retain",)),
        }

    def reads(self) -> Reads:
        """Outputs of blocks, of all rows also those of the untrained model."""
        return Reads(
            final=False,
            blocks=tuple(self.blocks),
            all_levels=self.levels == "every",
            untrained=("forget", "retain"),
        )

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        k, terms = self.retain_share * fixed["share"].item(), {}
        if "forget" in streams:
            terms["forget"] = self.alpha * (1 - k) * likeness(streams["forget"], self.blocks)
        if "retain" in streams:
            rows = streams["retain"]
            levels = sorted(rows.blocks) if self.levels == "every" else self.blocks
            terms["retain"] = self.alpha * k * distance(rows, levels)
        return terms


def likeness(rows: Stream, blocks: Sequence[int]) -> Tensor:
    """L_f, a scalar in [0, 1]."""
    import torch
    from torch.nn.functional import cosine_similarity as cosine

    return torch.stack(
        [cosine(*pair, dim=-1).relu().mean() for pair in states(rows, blocks)]
    ).mean()


def distance(rows: Stream, levels: Sequence[int]) -> Tensor:
    """L_r, a scalar."""
    import torch

    return torch.stack(
        [(now - before).norm(dim=-1).mean() for now, before in states(rows, levels)]
    ).mean()


def states(rows: Stream, blocks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each block its outputs at all tokens of all rows, now and untrained, at least fp32."""
    import torch

    def joined(of_rows: Sequence[Tensor]) -> Tensor:
        every = torch.cat(list(of_rows))
        return every.to(torch.promote_types(every.dtype, torch.float32))

    return [(joined(rows.blocks[block]), joined(rows.untrained[block])) for block in blocks]
