"""RMU: representation misdirection for unlearning (arXiv:2403.03218), fixed and adaptive.

With a_t the output of block ``layer`` at token t, a0 that of the untrained model, u a random unit
vector of the positive orthant, c the coefficient, and means over tokens and the H entries::

    L_f = mean (a_t - c u)^2       on forget rows
    L_r = mean (a_t - a0_t)^2      on retain rows
    L   = L_f + alpha L_r

The paper's squared norms are H times larger in both terms. The first tokens of a row are left out
(``skip_tokens``): their states are huge and would dominate. Adaptive (arXiv:2408.06223):
c = factor * the mean norm of a0 on the first batch of forget rows. The pass ends at the block, and
what is untrained comes from the original matrices: there is no second model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.method import Start, UnlearnSettings
from palimpsest.settings.types import Index, NonNegative, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Coefficient(Section):
    """Length of the control vector."""

    value: Positive | None = None
    """c itself; null: adaptive."""
    adaptive: Positive = 5.0
    """Factor on the mean norm of the untrained states, where no value is given."""


class Settings(UnlearnSettings):
    """Settings of RMU."""

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


def draws(s: Settings) -> dict[str, Draw]:
    """What each stream of a step reads."""
    read = {"forget": Draw(s.rows.forget, ("forget",))}
    if s.alpha:
        read["retain"] = Draw(s.rows.retain, ("retain",))
    return read


def reads(s: Settings) -> Reads:
    """The output of one block, on retain rows also that of the untrained model."""
    return Reads(final=False, blocks=(s.layer,), untrained=("retain",) if s.alpha else ())


def prepare(
    first: Mapping[str, Stream], ids: Mapping[str, Tensor], s: Settings, seed: int
) -> dict[str, Tensor]:
    """``control_vector`` [width] = c u, fp32, and ``coefficient`` c."""
    import torch

    states = counted(first["forget"].blocks[s.layer], s.skip_tokens)
    u = torch.rand(states.shape[-1], generator=torch.Generator().manual_seed(seed))
    c = torch.tensor(s.coefficient.value or adaptive(states, s.coefficient.adaptive))
    return {"control_vector": c * u / u.norm(), "coefficient": c}


def adaptive(states: Tensor, factor: float) -> float:
    """factor * the mean norm of states [tokens, width]."""
    return factor * states.double().norm(dim=-1).mean().item()


def loss(
    streams: Mapping[str, Stream], s: Settings, vectors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weighted terms of one step."""
    forget = counted(streams["forget"].blocks[s.layer], s.skip_tokens)
    terms = {"forget": mean_square(forget, vectors["control_vector"].to(forget.device))}
    if "retain" in streams:
        rows = streams["retain"]
        states, untrained = (
            counted(found[s.layer], s.skip_tokens) for found in (rows.blocks, rows.untrained)
        )
        terms["retain"] = s.alpha * mean_square(states, untrained)
    return terms


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
