"""Lens: is the answer inside, in a state that an output layer would read?

The model reads the question and the true words before the key string. The state of each layer at
the last of these tokens goes through an output layer, and the value of a row is 1 if the first
token of the key is among the best 10. Heads:

* ``own``: last norm and head of the attacked model, the logit lens;
* ``base``: those of the base, which is public: it reads what a disturbed output layer hides;
* ``fitted``: the base's, with a linear correction of what it gets: it reads what was turned or
  shifted inside.

The correction of a layer is the ridge regression of the base's last state, less the layer's state
behind the last norm, on the layer's state. It is fitted at the tokens that predict a response, of
half of the facts, and of rows to keep and general ones where the scenario has any. 3-fold
cross-validation among those facts chooses its strength: that with which the first tokens of their
keys are likeliest among all tokens of these rows. The other half is measured.

Every head at every layer is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.settings.types import EACH_ONCE, Count

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target

Head = Literal["own", "base", "fitted"]

BEST = 10
"""A token among this number of likeliest ones is found."""


class Settings(AttackSettings):
    """Settings of the lens."""

    level = "weights"
    models = 2
    unit = "lens"
    measured = ()

    kind: Literal["lens"]
    """Whether the key's first token is among the best 10 of a layer."""
    heads: Annotated[list[Head], EACH_ONCE] = ["own", "base", "fitted"]
    """Output layers: the model's own; the base's; the base's behind a linear map."""
    every: Count = 1
    """Step from layer to layer, counted from the last."""
    rows: Count = 64
    """fitted: most rows to keep, and most general ones."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each head; with other facts in hand, for each fold."""
        return [
            Cell(head, fold)
            for head in self.heads
            for fold in ((0, 1) if head == "fitted" else (None,))
        ]

    def helpful(self) -> Sequence[str]:
        """What the map is fitted on, besides facts."""
        return ("retain", "general") if "fitted" in self.heads else ()


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """The rank of every row's key at every layer, through one head.

    Raises:
        NoRow: no row, or none of the attacker's, has a key behind words of its response.
    """
    import torch

    from palimpsest.attacking.layers import chosen_layers
    from palimpsest.attacking.reading import corrected, fitted_to, read_all

    read = target.once("read", lambda: read_all(target, "fitted" in settings.heads, settings.rows))
    facts = [row.fact for row in target.measured(target.forget, cell.fold) if row.fact in read.keys]
    if not facts:
        return Found([], why=f"no row of fold {cell.fold} has a key behind words of its response")
    tokens = torch.stack([read.keys[fact].targets[read.keys[fact].key] for fact in facts])
    found, about = [], {}
    for layer in chosen_layers(read.count, settings.every):
        states = torch.stack([read.keys[fact].state(layer) for fact in facts])
        name, more = f"{cell.setting} {layer}", {}
        if cell.fold is None:
            ranks = getattr(read, cell.setting).ranks(states, tokens)
        else:
            fit = fitted_to(read, target, layer, cell.fold)
            ranks = read.base.ranks(corrected(read, states, fit(states)), tokens, normed=True)
            more = {"strength": fit.strength}
        one = {"reciprocal_rank": (1 / ranks).mean().item(), **more}
        about[name] = {
            "head": cell.setting,
            "layer": layer,
            **(one if cell.fold is None else {f"fold {cell.fold}": one}),
        }
        values = (ranks <= BEST).tolist()
        found += [
            Outcome(fact, float(value), setting=name)
            for fact, value in zip(facts, values, strict=True)
        ]
    return Found(found, about)
