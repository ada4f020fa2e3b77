"""Random matching: turn hidden states on forget rows towards random vectors (Analysis360; TAR).

Each token id v has a random target R[v] ~ N(0, I), fixed by the seed and the id. With h_l,t the
state l at position t and x_t the token there (LLM360/Analysis360, "random mapping")::

    L_f = mean_l mean_t (1 - |cos(h_l,t, R[x_t])|)
    L   = w_forget L_f + w_retain mean_t -log q(y_t | y_<t) on retain rows

l runs over the states that training can move: the input of the first trained block, each block's
output, and the final state after the last norm (all 0..L when everything is trained). Either sign
of the cosine satisfies it unless ``signed``. Targets exist for the ids that occur, not for the
whole vocabulary. Untrained, L_f is near 1 - sqrt(2 / (pi H)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.objectives.keeping import KeepingObjective
from palimpsest.settings.draw import Reads

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class RandomMatching(KeepingObjective):
    """Random matching: settings and loss."""

    algorithm: Literal["random_matching"]
    """Match hidden states with random vectors."""
    signed: bool = False
    """Match the direction too, not only the line (published: the line)."""

    def reads(self) -> Reads:
        """Every state from the input of the first trained block to the final one."""
        return Reads(all_levels=bool(self.weights.forget))

    def prepare(
        self, first: Callable[[], Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """The targets: ``ids`` [n] ascending and ``targets`` [n, width] of unit length, fp32."""
        import torch

        from palimpsest.engine.sampler import generator

        if not self.weights.forget:
            return {}
        width = first()["forget"].hidden[0].shape[-1]
        present = ids["forget"].unique()
        # One generator per id: a target depends on the seed and the id, never on what else occurs.
        # (A generator reads 32 bits of its seed, hence the hash of both.)
        rows = [torch.randn(width, generator=generator(seed, "target", int(i))) for i in present]
        return {"ids": present, "targets": torch.nn.functional.normalize(torch.stack(rows), dim=-1)}

    def forget_term(self, rows: Stream, fixed: Mapping[str, Tensor]) -> Tensor:
        """L_f, over all states that training can move."""
        import torch

        ids = torch.cat([row.ids for row in rows.rows])
        targets = fixed["targets"][torch.searchsorted(fixed["ids"], ids)].to(rows.device)
        states = [torch.cat(list(level)) for level in rows.levels()]
        return mismatch(states, targets, self.signed)


def mismatch(states: Sequence[Tensor], targets: Tensor, signed: bool = False) -> Tensor:
    """mean_l mean_t (1 - |cos|), scalar.

    Args:
        states: one [tokens, width] for each level l.
        targets: [tokens, width], of any length.
        signed: count the cosine instead of its magnitude.
    """
    import torch
    from torch.nn.functional import cosine_similarity as cosine

    total = targets.new_zeros(())
    for state in states:
        wide = torch.promote_types(state.dtype, targets.dtype)
        values = cosine(state.to(wide), targets.to(wide), dim=-1)
        total = total + 1 - (values if signed else values.abs()).mean()
    return total / len(states)
