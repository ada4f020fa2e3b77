"""What the attack `lens` reads, and the correction that it fits to the states of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.attacking.keyed import keyed
from palimpsest.attacking.layers import Layers, Lens, layers_of, lens_of
from palimpsest.attacking.parts import parts_of
from palimpsest.attacking.ridge import ALWAYS, Map, fitted
from palimpsest.attacking.target import Target
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.metrics.asked import draw_ids

TOKENS = 64
"""Tokens that are read of a longer response."""


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


def read_all(target: Target, with_base: bool, count: int) -> Read:
    """Read the facts with the attacked model.

    Args:
        target: the model and the rows.
        with_base: read other rows of the attacker, too, and everything with the base.
        count: most rows to keep, and most general ones.
    """
    facts = keyed(target, target.forget)
    others = []
    for name in filter(target.has, ("retain", "general") if with_base else ()):
        sources = target.others(name)
        ids = set(draw_ids([source.id for source in sources], count))
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
    if with_base:
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


def fitted_to(read: Read, target: Target, layer: int, fold: int) -> Map:
    """The map from a layer to what the base's head lacks, from rows that the attacker has.

    Args:
        read: what was read.
        target: knows the rows.
        layer: the layer.
        fold: the fold that is measured.

    Raises:
        UserError: too few of the attacker's facts can be used.
    """
    facts = [row.fact for row in target.attackers(fold) if row.fact in read.keys]
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
        states = corrected(read, x[at], correction)
        return read.base.costs(states, targets[at], among).sum().item()

    return fitted(x, final.double() - read.base.normed(x), part, judged, cost)


def corrected(read: Read, states: Tensor, correction: Tensor) -> Tensor:
    """What the base's head gets: the states behind its last norm, and the correction."""
    return read.base.normed(states) + correction
