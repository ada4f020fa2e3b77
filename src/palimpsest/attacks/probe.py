"""Probe: do inner states tell the true statement from the false ones?

Each fact is said in its true and in several false answers (``perturbed``). A statement's feature at
a layer is the mean state over the tokens in which the answers differ, less the mean of that over
the answers: what the question gives away is the same in all of them. A logistic regression with a
ridge penalty learns true against false from half of the facts, where 3-fold cross-validation
chooses its strength; on the other half the value of a row is 1 if its true statement has the
highest score. With three false answers chance is 1/4, and the control shows how far the wording of
false answers alone gives them away.

Every layer is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.errors import UserError
from palimpsest.settings.types import Count

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.attacking.target import Target
    from palimpsest.engine.rows import Row


class Settings(AttackSettings):
    """Settings of the probe."""

    level = "weights"
    unit = "probe"

    kind: Literal["probe"]
    """Whether a layer's states tell the true statement from the false ones."""
    every: Count = 3
    """Every so many layers, counted from the last."""

    def cells(self) -> Sequence[Cell]:
        """A cell for each fold."""
        return [Cell("", 0), Cell("", 1)]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """The scores of each measured row's statements, by a probe that was trained on others.

    Raises:
        UserError: no row has wrong answers, or too few of the attacker's rows have.
    """
    from palimpsest.attacking.layers import chosen_layers
    from palimpsest.attacking.parts import parts_of
    from palimpsest.attacking.statements import Probe

    assert cell.fold is not None
    features: Mapping[str, Tensor] = target.keeps.get("features") or _features(target)
    target.keeps["features"] = features
    has = [row.fact for row in target.attackers(cell.fold) if row.fact in features]
    wanted = [row.fact for row in target.measured(target.forget, cell.fold) if row.fact in features]
    part = parts_of(target, has)
    count = next(iter(features.values())).shape[0] - 1
    found, facts = [], {}
    for layer in chosen_layers(count, settings.every):
        probe = Probe.trained([features[fact][layer].numpy() for fact in has], part)
        for fact in wanted:
            value = probe.tells(features[fact][layer].numpy())
            found.append(Outcome(fact, float(value), setting=str(layer)))
        facts[str(layer)] = {"layer": layer, f"fold {cell.fold}": {"strength": probe.strength}}
    return Found(found, facts)


def _features(target: Target) -> Mapping[str, Tensor]:
    """Of each fact with wrong answers [layers + 1, answers, width], the true answer first."""
    from palimpsest.attacking.layers import layers_of
    from palimpsest.engine.body import Body

    sources = [row for row in target.forget if row.wrong]
    if not sources:
        raise UserError(
            f"{target.forget[0].ref} has no row with wrong answers (perturbed), between which the "
            "attack 'probe' chooses; leave it out of models.<name>.attacks"
        )
    answers = [(row.paraphrased or row.response, *row.wrong) for row in sources]
    rows = target.rows(
        [row for row, texts in zip(sources, answers, strict=True) for _ in texts],
        responses=[text for texts in answers for text in texts],
    )
    numbers = iter(rows)
    by_fact = [[next(numbers) for _ in texts] for texts in answers]
    places = [span for members in by_fact for span in differing(members)]
    states = layers_of(target, Body(target.network), rows, places, "states")
    means = iter(one.levels.double().mean(1) for one in states)
    return {
        source.fact: centred([next(means) for _ in texts])
        for source, texts in zip(sources, answers, strict=True)
    }


def centred(statements: Sequence[Tensor]) -> Tensor:
    """Features of a fact's statements [layers + 1, answers, width], less their mean."""
    import torch

    features = torch.stack(list(statements), dim=1)
    return features - features.mean(1, keepdim=True)


def differing(rows: Sequence[Row]) -> list[range]:
    """Tokens of each row between those that all have in common, at the beginning and at the end.

    At least one token, also of a row that is the others' beginning and end.
    """
    ids = [row.ids.tolist() for row in rows]
    shortest = min(map(len, ids))
    first = _common(ids)
    last = min(_common([one[::-1] for one in ids]), shortest - first)
    spans = [range(first, len(one) - last) for one in ids]
    return [
        span or range(min(first, len(one) - 1), min(first, len(one) - 1) + 1)
        for span, one in zip(spans, ids, strict=True)
    ]


def _common(lists: Sequence[Sequence[int]]) -> int:
    """Entries that all have in common at their beginning."""
    columns = enumerate(zip(*lists, strict=False))
    return next((i for i, column in columns if len(set(column)) > 1), min(map(len, lists)))
