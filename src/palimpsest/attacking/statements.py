"""A linear probe that tells a fact's true statement from its false ones, and what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palimpsest.attacking.layers import layers_of
from palimpsest.attacking.target import Target
from palimpsest.attacks import NoRow
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the penalty, for features of standard deviation 1."""


@dataclass(frozen=True)
class Probe:
    """A trained probe.

    Attributes:
        scale: by which features are divided, [width].
        weights: of the scaled features, [width].
        strength: inverse strength of the penalty, of `STRENGTHS`.
    """

    scale: np.ndarray
    weights: np.ndarray
    strength: float

    @classmethod
    def trained(cls, facts: Sequence[np.ndarray], part: np.ndarray) -> Probe:
        """Learn true against false.

        Args:
            facts: features of each fact's statements, [answers, width], the true one first.
            part: the part of each fact in cross-validation, which chooses the strength.
        """
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.model_selection import PredefinedSplit
        from threadpoolctl import threadpool_limits

        table = np.concatenate(facts)
        true = np.concatenate([np.arange(len(fact)) == 0 for fact in facts])
        scale = table.std(axis=0)
        scale[scale == 0] = 1
        parts = np.repeat(part, [len(fact) for fact in facts])
        with threadpool_limits(torch.get_num_threads()):
            # The penalty does not change with the axes: in those of the table's own few directions
            # the regression is the same, and smaller.
            left, sizes, axes = np.linalg.svd(table / scale, full_matrices=False)
            model = LogisticRegressionCV(
                Cs=list(STRENGTHS),
                l1_ratios=(0,),
                cv=PredefinedSplit(parts),
                scoring="neg_log_loss",
                solver="newton-cholesky",
                fit_intercept=False,  # of what is centred fact by fact it says nothing
                class_weight="balanced",
                use_legacy_attributes=False,
            ).fit(left * sizes, true)
        return cls(scale, model.coef_[0] @ axes, float(model.C_))

    def tells(self, statements: np.ndarray) -> bool:
        """Whether the first of [answers, width] statements has the highest score, alone."""
        right, *wrong = (statements / self.scale) @ self.weights
        return bool(all(right > other for other in wrong))


def features_of(target: Target) -> dict[str, Tensor]:
    """Of each fact with wrong answers [layers + 1, answers, width], the true answer first.

    Raises:
        NoRow: there is none.
    """
    sources = [row for row in target.forget if row.wrong]
    if not sources:
        ref = target.forget[0].ref
        raise NoRow(f"{ref} has no row with wrong answers (perturbed) to choose between")
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
