"""States of every layer of a model, and what an output layer makes of them.

Layer 0 is the embedding, layer l the output of the l-th block, before any last norm.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.attacking.target import Target
from palimpsest.attacks import NotFinite
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import run_and_capture
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, batches
from palimpsest.errors import UserError
from palimpsest.limits import BLOCK_BYTES
from palimpsest.settings.draw import Reads


@dataclass(frozen=True)
class Layers:
    """States of one row at the tokens that were asked for, in main memory.

    Attributes:
        levels: of every layer, [layers + 1, tokens, width].
        final: after the last norm, [tokens, width].
    """

    levels: Tensor
    final: Tensor


@torch.no_grad()
def layers_of(
    target: Target, body: Body, rows: Sequence[Row], places: Sequence[Sequence[int]], what: str
) -> list[Layers]:
    """States of each row, in order.

    Args:
        target: has the size of a pass, and the name of the work.
        body: the model.
        rows: the rows.
        places: of each row, the tokens whose states are kept.
        what: what is read, for the progress line.

    Raises:
        NotFinite: a state is not finite.
    """
    last = len(body.decoder.blocks) - 1
    reads = Reads(all_levels=True, blocks=(last,))
    progress = Progress(f"{target.job.label} {what}", len(rows))
    found: dict[int, Layers] = {}
    for group in batches(rows, target.job.untracked["batch_tokens"]):
        for i, states in zip(group, body.states([rows[i] for i in group], reads), strict=True):
            at = torch.tensor(places[i], device=body.device)
            levels = torch.stack([states.blocks[block][at] for block in range(-1, last + 1)])
            found[i] = Layers(levels.cpu(), states.final[at].cpu())
            if not (found[i].levels.isfinite().all() and found[i].final.isfinite().all()):
                raise NotFinite("states")
        progress.update(len(found), sum(len(rows[i]) for i in group))
    return [found[i] for i in range(len(rows))]


def chosen_layers(count: int, every: int) -> list[int]:
    """One in `every` layers of `count` blocks, the last block's output among them, ascending."""
    return list(range(count, 0, -every))[::-1]


@dataclass(frozen=True)
class Lens:
    """The last norm and the head of a model, in fp32 or wider."""

    norm: nn.Module
    head: nn.Module

    @torch.no_grad()
    def normed(self, states: Tensor) -> Tensor:
        """States [n, width] behind the last norm, float64 in main memory."""
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        result: Tensor = self.norm(states.to(weight))
        return result.cpu().double()

    @torch.no_grad()
    def ranks(self, states: Tensor, tokens: Tensor, normed: bool = False) -> Tensor:
        """Rank of a token, 1 for the likeliest, by the states in front of it.

        Args:
            states: [n, width].
            tokens: ids [n].
            normed: the states have passed the last norm.

        Returns:
            int64 [n], in main memory; of equal logits, and where they are no numbers, the worst.
        """
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        states, tokens = states.to(weight), tokens.to(weight.device)
        states = states if normed else self.norm(states)
        rows = max(1, BLOCK_BYTES["cpu"] * 16 // (len(weight) * weight.element_size()))
        found = []
        for part, labels in zip(states.split(rows), tokens.split(rows), strict=True):
            logits = self.head(part)
            own = logits.gather(-1, labels[:, None])
            found.append((~(logits < own)).sum(-1))
        return torch.cat(found).cpu()

    @torch.no_grad()
    def costs(self, states: Tensor, tokens: Tensor, among: Tensor) -> Tensor:
        """-log of a token's share among a few, nats [n], by states that have passed the norm.

        Args:
            states: [n, width].
            tokens: ids [n], each of `among`.
            among: different ids, ascending [m].
        """
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(self.head, "bias", None)
        few = weight[among.to(weight.device)]
        logits = states.to(weight) @ few.T
        if bias is not None:
            logits += bias[among.to(weight.device)]
        labels = torch.searchsorted(among, tokens).to(weight.device)
        return nn.functional.cross_entropy(logits, labels, reduction="none").cpu()


def lens_of(body: Body) -> Lens:
    """What `body` does to the output of its last block.

    Raises:
        UserError: the last norm is not where architectures have it.
    """
    wide = torch.promote_types(body.head.weight.dtype, torch.float32)
    norm = copy.deepcopy(_last_norm(body)).to(wide)
    # Factors and caps of logits (`ScaledHead`) do not change their order.
    head = copy.deepcopy(getattr(body.head, "linear", body.head)).to(wide)
    return Lens(norm, head)


@torch.no_grad()
def _last_norm(body: Body) -> nn.Module:
    """The child of the decoder that turns the output of the last block into the final states."""
    decoder = body.decoder
    norms = [child for child in decoder.module.children() if not isinstance(child, nn.ModuleList)]
    ids = torch.arange(1, 9, device=body.device)[None]
    last = len(decoder.blocks) - 1
    final, outputs = run_and_capture(
        lambda: decoder.run({"input_ids": ids}), decoder.blocks, outputs_of={last}
    )
    for norm in norms[::-1]:
        if any(True for _ in norm.parameters()) and _gives(norm, outputs[last], final):
            return norm
    raise UserError(f"{type(decoder.module).__name__}: its last norm was not found")


def _gives(norm: nn.Module, states: Tensor, final: Tensor | None) -> bool:
    try:
        return torch.equal(norm(states), final)  # type: ignore[arg-type]
    except Exception:  # an embedding or a projection does not take such states
        return False
