"""The inner loop of latent adversarial training (arXiv:2407.15549): an attack on inner states.

For the forget rows of a step it looks for delta_t at every token t of a block's output, which makes
the rows as likely as it can, and stays within a ball::

    delta = argmin mean_t -log q(y_t | h + delta),    |delta_t| <= radius

by AdamW from 0, projected after each step. States below the block do not depend on delta: they are
computed once, and each step runs the blocks above alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from palimpsest.engine import ranks
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import Padding
from palimpsest.engine.kernels.head import nll
from palimpsest.engine.probe import why_not_split
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.errors import UserError
from palimpsest.settings.adversary import Adversary
from palimpsest.settings.draw import Reads


def check(body: Body, adversary: Adversary) -> None:
    """See whether the blocks above the attacked one can run apart.

    Raises:
        UserError: they cannot, or there are none, or the weights are spread over processes.
    """
    above, count = adversary.block + 1, len(body.decoder.blocks)
    if not body.lowest <= adversary.block < count - 1:
        raise UserError(
            f"attack.block: {adversary.block}, but the model has blocks 0 to {count - 1} and "
            f"training begins at block {body.lowest}; choose one of {body.lowest} to {count - 2}"
        )
    if ranks.current().sharded:
        raise UserError("attack: its steps run some blocks alone; use parallel: ddp, not fsdp")
    if reason := why_not_split(body.decoder, above, body.device):
        raise UserError(f"attack.block: {adversary.block} cannot be attacked: {reason}")
    # Packed rows share the states of a prompt, and each row gets states of its own here.
    body.packs = False


def attack(body: Body, rows: Sequence[Row], adversary: Adversary) -> dict[Row, Tensor]:
    """What is added to the block's output of each row, fp32 [length, width], without gradient.

    Args:
        body: the model, after `check`.
        rows: the forget rows of a step, all of them in every process that trains.
        adversary: where, how far and how.
    """
    block = adversary.block
    with torch.no_grad():
        before = body.states(rows, Reads(final=False, blocks=(block,)))
    layout = Padding([len(row) for row in rows])
    entering = layout.batch([state.blocks[block] for state in before])
    delta = torch.zeros_like(
        entering, dtype=torch.promote_types(entering.dtype, torch.float32), requires_grad=True
    )
    labels = torch.cat([row.targets for row in rows])
    counted = (labels != IGNORED).nonzero()[:, 0]  # on the host: a mask would have to wait
    labels, at = labels[counted].to(body.device), counted.to(body.device)
    optimizer = torch.optim.AdamW([delta], lr=adversary.learning_rate)
    for _ in range(adversary.steps):
        moved = (entering + delta).to(entering.dtype)
        final = body.decoder.run({"inputs_embeds": moved}, block + 1, layout=layout)
        pairs = zip(rows, layout.by_row(final), strict=True)
        states = torch.cat([hidden[row.prompt_length - 1 : -1] for row, hidden in pairs])
        cost = nll(states[at], labels, body.head).mean()
        # Nothing but delta gets a gradient: those of the trained tensors would add up.
        (delta.grad,) = torch.autograd.grad(cost, [delta])
        optimizer.step()
        project(delta, adversary.radius)
    return dict(zip(rows, layout.by_row(delta.detach()), strict=True))


@torch.no_grad()
def project(delta: Tensor, radius: float) -> None:
    """Bring what is added to each token, the last dimension, back into the ball; in place."""
    delta.div_((delta.norm(dim=-1, keepdim=True) / radius).clamp(min=1))


def rounds(
    body: Body, drawn: Sequence[Row], adversary: Adversary | None
) -> Iterator[dict[Row, Tensor]]:
    """What is added in each update of a step; without an adversary once, nothing."""
    if adversary is None:
        yield {}
        return
    added = attack(body, drawn, adversary)
    for _ in range(adversary.updates):
        yield added
