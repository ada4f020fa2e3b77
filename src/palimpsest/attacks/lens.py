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
rows to keep, general ones and half of the facts. 3-fold cross-validation among those facts chooses
its strength: that with which the first tokens of their keys are likeliest among all tokens of these
rows. The other half is measured.

Every head at every layer is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.settings.types import EACH_ONCE, Count

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.attacking.layers import Layers, Lens
    from palimpsest.attacking.ridge import Map
    from palimpsest.attacking.target import Target
    from palimpsest.engine.rows import Row

Head = Literal["own", "base", "fitted"]

BEST = 10
"""A token is found if it is among so many."""
TOKENS = 64
"""Of longer responses so many tokens are read."""


class Settings(AttackSettings):
    """Settings of the lens."""

    level = "weights"
    unit = "lens"

    kind: Literal["lens"]
    """Whether the key's first token is among the best 10 of a layer."""
    heads: Annotated[list[Head], EACH_ONCE] = ["own", "base", "fitted"]
    """Output layers: the model's own; the base's; the base's behind a linear map."""
    every: Count = 1
    """Every so many layers, counted from the last."""
    rows: Count = 64
    """fitted: at most so many rows to keep, and so many general ones."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each head; with other facts in hand, for each fold."""
        return [
            Cell(head, fold)
            for head in self.heads
            for fold in ((0, 1) if head == "fitted" else (None,))
        ]

    def others(self) -> Sequence[str]:
        """What the map is fitted on, besides facts."""
        return ("retain", "general") if "fitted" in self.heads else ()


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """The rank of every row's key at every layer, through one head.

    Raises:
        UserError: no row, or none of the attacker's, has a key behind words of its response.
    """
    import torch

    from palimpsest.attacking.layers import chosen_layers

    read: Read = target.keeps.get("read") or _read(settings, target)
    target.keeps["read"] = read
    facts = [row.fact for row in target.measured(target.forget, cell.fold) if row.fact in read.keys]
    tokens = torch.stack([read.keys[fact].targets[read.keys[fact].key] for fact in facts])
    found, about = [], {}
    for layer in chosen_layers(read.count, settings.every):
        states = torch.stack([read.keys[fact].state(layer) for fact in facts])
        name, more = f"{cell.setting} {layer}", {}
        if cell.fold is None:
            ranks = getattr(read, cell.setting).ranks(states, tokens)
        else:
            fit = _fit(read, layer, [row.fact for row in target.attackers(cell.fold)], target)
            ranks = read.base.ranks(_corrected(read, states, fit(states)), tokens, normed=True)
            more = {"strength": fit.strength}
        one = {"reciprocal_rank": (1 / ranks).mean().item(), **more}
        where = {"head": cell.setting, "layer": layer}
        about[name] = where | (one if cell.fold is None else {f"fold {cell.fold}": one})
        values = (ranks <= BEST).tolist()
        found += [
            Outcome(fact, float(value), setting=name)
            for fact, value in zip(facts, values, strict=True)
        ]
    return Found(found, about)


@dataclass(frozen=True)
class Line:
    """What was read of one row, at the tokens that predict its response.

    Attributes:
        attacked: states of the attacked model.
        final: last states of the base [tokens, width]; None: they are not needed.
        targets: the tokens that follow, int64 [tokens].
        key: place among these tokens of that before the key; -1: the row is no fact.
    """

    attacked: Layers
    final: Tensor | None
    targets: Tensor
    key: int = -1

    def state(self, layer: int) -> Tensor:
        """State of the attacked model before the key, [width]."""
        return self.attacked.levels[layer, self.key]


@dataclass(frozen=True)
class Read:
    """What the cells share.

    Attributes:
        keys: of each fact.
        others: of the attacker's other rows.
        own: output layer of the attacked model.
        base: that of the base.
        count: blocks of the model.
    """

    keys: Mapping[str, Line]
    others: Sequence[Line]
    own: Lens
    base: Lens
    count: int


def _read(settings: Settings, target: Target) -> Read:
    """Read every row with the attacked model, and with the base where its states are needed."""
    import torch

    from palimpsest.attacking.keyed import keyed
    from palimpsest.attacking.layers import layers_of, lens_of
    from palimpsest.engine.body import Body
    from palimpsest.metrics.asked import draw_ids

    facts = keyed(target, target.forget)
    others = []
    for name in filter(target.has, settings.others()):
        sources = target.others(name)
        ids = set(draw_ids([source.id for source in sources], settings.rows))
        others += target.rows([source for source in sources if source.id in ids])
    firsts = [one.first - 1 for one in facts] + [0] * len(others)
    rows = [one.row for one in facts] + others
    places = [_places(row, first) for row, first in zip(rows, firsts, strict=True)]
    targets = [row.ids[torch.tensor(at) + 1] for row, at in zip(rows, places, strict=True)]
    rows = [replace(row, ids=row.ids[: at[-1] + 1]) for row, at in zip(rows, places, strict=True)]
    body = Body(target.network)
    attacked = layers_of(target, body, rows, places, "states")
    public = Body(target.load_base())
    finals: list[Any] = [None] * len(rows)
    if "fitted" in settings.heads:
        finals = [one.final for one in layers_of(target, public, rows, places, "base")]
    lines = list(map(Line, attacked, finals, targets))
    for i, (one, at) in enumerate(zip(facts, places, strict=False)):
        lines[i] = replace(lines[i], key=at.index(one.first - 1))
    keys = {one.source.fact: line for one, line in zip(facts, lines, strict=False)}
    return Read(keys, lines[len(facts) :], lens_of(body), lens_of(public), len(body.decoder.blocks))


def _places(row: Row, key: int) -> list[int]:
    """Tokens that predict the first `TOKENS` of the response, and the one before the key."""
    begin = row.prompt_length - 1
    predicting = range(begin, min(len(row) - 1, begin + TOKENS))
    return sorted({*predicting, max(key, begin)})


def _fit(read: Read, layer: int, attackers: Sequence[str], target: Target) -> Map:
    """The map from a layer to the base's last states, from rows that the attacker has."""
    import torch

    from palimpsest.attacking.parts import parts_of
    from palimpsest.attacking.ridge import ALWAYS, fitted

    facts = [fact for fact in attackers if fact in read.keys]
    parts = parts_of(target, facts).tolist()
    lines = [*(read.keys[fact] for fact in facts), *read.others]
    sizes = torch.tensor([len(line.targets) for line in lines])
    part = torch.tensor([*parts, *([ALWAYS] * len(read.others))]).repeat_interleave(sizes)
    judged = torch.cat([torch.arange(len(line.targets)) == line.key for line in lines])
    x = torch.cat([line.attacked.levels[layer] for line in lines])
    final = torch.cat([line.final for line in lines if line.final is not None])
    targets = torch.cat([line.targets for line in lines])
    among = targets.unique()

    def cost(at: Tensor, correction: Tensor) -> float:
        states = _corrected(read, x[at], correction)
        return read.base.costs(states, targets[at], among).sum().item()

    return fitted(x, final.double() - read.base.normed(x), part, judged, cost)


def _corrected(read: Read, states: Tensor, correction: Tensor) -> Tensor:
    """What the base's head gets: the states behind its last norm, and the correction."""
    return read.base.normed(states) + correction
