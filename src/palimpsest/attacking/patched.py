"""States of one model under the upper blocks of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.attacking.keyed import Keyed
from palimpsest.attacking.layers import chosen_layers
from palimpsest.attacking.target import Target
from palimpsest.attacks import NotFinite
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import Padding
from palimpsest.engine.kernels.head import nll
from palimpsest.engine.kernels.packing import Packing
from palimpsest.engine.probe import why_not_split
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import batches
from palimpsest.errors import UserError
from palimpsest.settings.draw import Reads


@dataclass(frozen=True)
class Patched:
    """The model before unlearning, whose upper blocks read other models' states.

    Attributes:
        target: has the size of a pass, and the name of the work.
        facts: rows that are read, with their keys.
        layers: layers that are replaced, ascending.
        original: the model.
    """

    target: Target
    facts: Sequence[Keyed]
    layers: Sequence[int]
    original: Body

    @classmethod
    def of(cls, target: Target, facts: Sequence[Keyed], every: int) -> Patched:
        """Load the model.

        Raises:
            UserError: its blocks cannot run apart.
        """
        body = Body(target.load(target.original))
        layers = chosen_layers(len(body.decoder.blocks), every)
        if reason := why_not_split(body.decoder, layers[0], body.device):
            raise UserError(
                f"attack '{target.job.config['name']}' runs upper blocks by themselves, and with "
                f"{type(body.decoder.module).__name__} {reason}; leave it out of "
                "models.<name>.attacks"
            )
        return cls(target, facts, layers, body)

    @torch.no_grad()
    def drops(self, network: nn.Module, what: str) -> Tensor:
        """What the states of a model cost the tokens of each row's key.

        Args:
            network: the model.
            what: its name in the progress line.

        Returns:
            Drop of the mean log-probability of a token, nats, float64 [layers, rows].

        Raises:
            NotFinite: a state of the model, or what is made of it, is not finite.
        """
        body = Body(network)
        blocks = tuple(layer - 1 for layer in self.layers)
        progress = Progress(f"{self.target.job.label} {what}", len(self.facts))
        found = torch.zeros(len(self.layers), len(self.facts), dtype=torch.float64)
        rows = [fact.row for fact in self.facts]
        done = 0
        for group in batches(rows, self.target.job.untracked["batch_tokens"]):
            members = [rows[i] for i in group]
            other = body.states(members, Reads(final=False, blocks=blocks))
            own = self.original.states(members, Reads(blocks=blocks))
            whole = self._costs(group, [states.final for states in own])
            for place, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
                states = [one.blocks[block] for one in other]
                if all(map(torch.equal, states, [one.blocks[block] for one in own])):
                    continue
                found[place, group] = self._costs(group, self._above(layer, group, states)) - whole
            done += len(group)
            progress.update(done, sum(map(len, members)))
        if not found.isfinite().all():
            raise NotFinite("states")
        return found

    def _above(self, layer: int, group: Sequence[int], states: Sequence[Tensor]) -> list[Tensor]:
        """Final states of some rows, from their states at a layer, each [length, width]."""
        rows = [self.facts[i].row for i in group]
        packs = self.original.packs
        layout = (
            Packing.of(rows, self.original.device) if packs else Padding([len(row) for row in rows])
        )
        inputs = {"inputs_embeds": layout.batch(states)}
        return layout.by_row(self.original.decoder.run(inputs, layer, layout=layout))

    def _costs(self, group: Sequence[int], final: Sequence[Tensor]) -> Tensor:
        """Mean cost of a token of the key of some rows, nats, float64 [rows]."""
        facts = [self.facts[i] for i in group]
        states = [
            one[fact.first - 1 : fact.end - 1] for fact, one in zip(facts, final, strict=True)
        ]
        labels = torch.cat([fact.row.ids[fact.first : fact.end] for fact in facts])
        costs = nll(torch.cat(states), labels.to(self.original.device), self.original.head)
        sizes = [len(one) for one in states]
        return torch.stack([one.mean() for one in costs.double().split(sizes)]).cpu()
