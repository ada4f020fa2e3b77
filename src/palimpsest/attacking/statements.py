"""A linear probe that tells a fact's true statement from its false ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

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
