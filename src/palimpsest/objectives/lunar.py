"""LUNAR: forget prompts look, inside, like prompts that the model declines (arXiv:2502.07218).

One matrix W is changed, the down-projection of block ``layer``; x_t are its inputs at token t, h_t
the block's output, and d is the mean of h at the last prompt token, on declined prompts less that
on forget prompts. With forget rows F and retain rows N, each with all of its tokens, n in all, and
H entries of a state::

    L_f = 1/(n H) sum_{t in F} |(W - W_0) x_t - c d|^2
    L_r = 1/(n H) sum_{t in N} |(W - W_0) x_t|^2
    L   = L_f + L_r + lambda/(n H) |W - W_0|^2

The release takes 20 epochs of AdamW in bf16. It is linear regression, so here is its solution. With
G = sum_t x_t x_t' over both sets and s = sum_{t in F} x_t::

    W - W_0 = c d g',    (G + lambda I) g = s,    lambda = ridge * mean of G's diagonal

As the states below the matrix stay as they are, W x moves the block's output by (W - W_0) x, which
is how `loss` sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.method import Start
from palimpsest.settings.types import Count, Index, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.closed_form import Read
    from palimpsest.engine.stream import Stream


class Lunar(Unlearning):
    """LUNAR: settings and solution."""

    algorithm: Literal["lunar"]
    """Send forget prompts where declined prompts are."""
    start: Start = "weights"
    steps: Count = 1
    """Not used: the minimum is computed at once."""
    layer: Index
    """Block whose down-projection is changed (0-based); it is what ``training.tensors`` names."""
    shift: Positive = 2.0
    """c: how far forget prompts go, in units of the way to declined prompts."""
    ridge: Positive = 1e-3
    """Keeps the change small where the rows say nothing, as a share of the inputs' mean square."""

    tunes = ("shift", "ridge")

    def draws(self) -> dict[str, Draw]:
        """All rows of these streams are read at once."""
        return {
            "forget": Draw(self.rows.forget, ("forget",)),
            "retain": Draw(self.rows.retain, ("retain",)),
            "declined": Draw(self.rows.forget, ("declined",)),
        }

    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        """Refuses: there are no steps whose gradients could be taken apart."""
        raise ValueError(
            "training.gradients and training.perturb change steps, and lunar makes none: its "
            "minimum is computed; leave them out"
        )

    def reads(self) -> Reads:
        """The output of one block, also that of the untrained model."""
        return Reads(final=False, blocks=(self.layer,), untrained=("forget", "retain"))

    def prepare(
        self, first: Callable[[], Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """``direction`` d, [width], of the first step's rows; `solution` has that of all."""
        streams = first()
        ends = {name: ends_of(streams[name], self.layer) for name in ("forget", "declined")}
        return {"direction": (ends["declined"] - ends["forget"]).float()}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """L_f and L_r of a step; `solution` minimises those of all rows."""
        moved = {name: change(streams[name], self.layer) for name in ("forget", "retain")}
        target = self.shift * fixed["direction"].to(moved["forget"])
        entries = sum(states.numel() for states in moved.values())
        return {
            "forget": (moved["forget"] - target).square().sum() / entries,
            "retain": moved["retain"].square().sum() / entries,
        }

    def solution(self, read: Read) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """W - W_0, what stays beside the model, and the terms of the loss with it.

        Args:
            read: the inputs of W and the block's outputs, row by row.
        """
        forget, retain, declined = (gathered(read(n)) for n in ("forget", "retain", "declined"))
        d = declined.end - forget.end
        g = weights_of(forget.total, forget.gram + retain.gram, self.ridge)
        size = (self.shift * d).square().mean() / (forget.count + retain.count)
        missed = g @ forget.gram @ g - 2 * g @ forget.total + forget.count
        terms = {"forget": size * missed, "retain": size * (g @ retain.gram @ g)}
        found = {name: value.item() for name, value in terms.items()}
        return (self.shift * d).outer(g), {"direction": d.float()}, found


class Gathered:
    """Sums over the tokens of a stream, float64.

    Attributes:
        total: of the inputs, [inner].
        gram: of their products, [inner, inner].
        end: mean output at the last prompt token, [width].
        count: number of tokens.
    """

    total: Tensor
    gram: Tensor
    end: Tensor
    count: int


def gathered(rows: Iterable[tuple[Tensor, Tensor]]) -> Gathered:
    """Add up a stream: of each row its inputs [length, inner] and its output [width]."""
    sums, n = Gathered(), 0
    for n, (inputs, output) in enumerate(rows, 1):
        x, h = inputs.double(), output.double()
        if n == 1:
            sums.total, sums.end, sums.count = x.new_zeros(x.shape[1]), h.new_zeros(h.shape), 0
            sums.gram = x.new_zeros(x.shape[1], x.shape[1])
        sums.total += x.sum(0)
        sums.gram.addmm_(x.T, x)
        sums.end += h
        sums.count += len(x)
    sums.end /= n
    return sums


def weights_of(total: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """g [inner]: the solution of (gram + ridge * mean diagonal * I) g = total, by Cholesky."""
    import torch

    regular = gram.clone()
    regular.diagonal().add_(ridge * gram.diagonal().mean())
    return torch.cholesky_solve(total[:, None], torch.linalg.cholesky(regular))[:, 0]


def change(rows: Stream, layer: int) -> Tensor:
    """What training added to the block's output at every token of the rows, [tokens, width]."""
    import torch

    return torch.cat(list(rows.blocks[layer])) - torch.cat(list(rows.untrained[layer]))


def ends_of(rows: Stream, layer: int) -> Tensor:
    """Mean of the block's output at each row's last prompt token, [width]."""
    import torch

    pairs = zip(rows.rows, rows.blocks[layer], strict=True)
    return torch.stack([states[row.prompt_length - 1] for row, states in pairs]).mean(0)
