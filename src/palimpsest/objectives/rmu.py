"""RMU: representation misdirection for unlearning (arXiv:2403.03218), fixed and adaptive.

With a_t the output of block ``layer`` at token t, a0 that of the untrained model, u a random unit
vector of the positive orthant, c the coefficient, and means over tokens and the H entries::

    L_f = mean (a_t - c u)^2       on forget rows
    L_r = mean (a_t - a0_t)^2      on retain rows
    L   = L_f + alpha L_r

The paper's squared norms are H times larger in both terms. The first tokens of a row are left out
(``skip_tokens``): their states are huge and would dominate. Adaptive (arXiv:2408.06223):
c = factor * the mean norm of a0 on the first batch of forget rows. The pass ends at the block, and
untrained states come from the original matrices: there is no second model.

With several ``topics`` (WMDP: biology, attacks on computers) each step has forget rows of one of
them, in turn, and each topic has a direction u of its own and, adaptive, a c of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.base import Unlearning
from palimpsest.settings.draw import Draw, Reads, topic_sets
from palimpsest.settings.method import Start
from palimpsest.settings.types import Count, Index, NonNegative, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Coefficient(Section):
    """Length of the control vector."""

    value: Positive | None = None
    """c itself; null: adaptive."""
    adaptive: Positive = 5.0
    """Factor on the mean norm of the untrained states, where `value` is null."""


class Rmu(Unlearning):
    """RMU: settings and loss."""

    algorithm: Literal["rmu"]
    """Misdirect the states of forget rows, hold those of retain rows."""
    start: Start = "weights"
    layer: Index
    """Block whose output is steered (0-based)."""
    alpha: NonNegative = 1200.0
    """Weight of the retain term; 0 leaves it out."""
    coefficient: Coefficient = Coefficient()
    """Length of the control vector."""
    skip_tokens: Index = 1
    """Tokens at the beginning of each row that do not count."""
    topics: Count = 1
    """Topics to forget, each with a direction of its own: `forget` of the scenario and those of its
    `topics`, one in each step, in turn."""

    tunes = (*Unlearning.tunes, "alpha", "coefficient.value", "coefficient.adaptive")

    def draws(self) -> dict[str, Draw]:
        """The streams of a step."""
        sets = topic_sets(self.topics)
        draws = {"forget": Draw(self.rows.forget, sets, turns=self.topics > 1)}
        if self.alpha:
            draws["retain"] = Draw(self.rows.retain, ("retain",))
        return draws

    def reads(self) -> Reads:
        """The output of one block, on retain rows also that of the untrained model."""
        return Reads(final=False, blocks=(self.layer,), untrained=("retain",) if self.alpha else ())

    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        """The forget stream, whichever topic's turn it is, and the retain stream."""
        if self.topics == 1 or not self.alpha:
            return super().sides()
        return frozenset({"forget"}), frozenset({"retain"})

    def prepare(
        self, first: Callable[..., Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """``control_vector`` c u, fp32 [width], and ``coefficient`` c; a line for each topic."""
        import torch

        random = torch.Generator().manual_seed(seed)
        vectors, lengths = [], []
        for topic in range(self.topics):
            streams = first(topic) if topic else first()
            states = counted(streams["forget"].blocks[self.layer], self.skip_tokens)
            u = torch.rand(states.shape[-1], generator=random)
            c = torch.tensor(self.coefficient.value or adaptive(states, self.coefficient.adaptive))
            vectors.append(c * u / u.norm())
            lengths.append(c)
        if self.topics == 1:
            return {"control_vector": vectors[0], "coefficient": lengths[0]}
        return {"control_vector": torch.stack(vectors), "coefficient": torch.stack(lengths)}

    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of one step."""
        terms = {}
        if "forget" in streams:
            forget = counted(streams["forget"].blocks[self.layer], self.skip_tokens)
            vector = fixed["control_vector"]
            if self.topics > 1:
                vector = vector[round(fixed["share"].item() * self.steps) % self.topics]
            terms["forget"] = mean_square(forget, vector.to(forget.device))
        if "retain" in streams:
            rows = streams["retain"]
            states, untrained = (
                counted(levels[self.layer], self.skip_tokens)
                for levels in (rows.blocks, rows.untrained)
            )
            terms["retain"] = self.alpha * mean_square(states, untrained)
        return terms


def adaptive(states: Tensor, factor: float) -> float:
    """factor * the mean norm of states [tokens, width]."""
    return factor * states.double().norm(dim=-1).mean().item()


def mean_square(states: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens and entries of (states - target)^2, at least fp32.

    Args:
        states: [tokens, width].
        target: [tokens, width], or [width] for all tokens alike; nothing else is broadcast.
    """
    import torch

    if target.shape not in (states.shape, states.shape[1:]):
        raise ValueError(f"states {tuple(states.shape)} against a target {tuple(target.shape)}")
    wide = torch.promote_types(states.dtype, torch.float32)
    return (states.to(wide) - target.to(wide)).square().mean()


def counted(rows: Sequence[Tensor], skip: int) -> Tensor:
    """States of all rows without each row's first tokens (never without its last), [n, width]."""
    import torch

    return torch.cat([row[min(skip, len(row) - 1) :] for row in rows])
