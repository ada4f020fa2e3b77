"""Forgetting against keeping: the Pareto set, its hypervolume, and what a search of k trials finds.

A point is (x, y): the share that was forgotten and the share that was kept, both better when
higher. What lies between is in the hands of the reader: no point of the set beats another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point whether no other is better in one axis and as good in the other.

    Equal points are all in the set; one with a NaN never is.
    """
    if not points:
        return []
    table = np.asarray(points, dtype=float)
    known = np.isfinite(table).all(axis=1)
    as_good = (table[None] >= table[:, None]).all(axis=2)
    better = (table[None] > table[:, None]).any(axis=2)
    beaten = np.logical_and(as_good, better)[:, known].any(axis=1)
    return [bool(inside) for inside in known & ~beaten]


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """The area that the points leave no better than themselves, from (0, 0).

    With x falling: sum_j (x_j - x_(j+1)) max_(i <= j) y_i, the x after the last one being 0. It is
    1 if all was forgotten and all kept, 0 if one of them is 0 in each point; exact, since there are
    two axes. Points with a NaN count nothing.
    """
    table = np.asarray([p for p in points if np.isfinite(p).all()], dtype=float).reshape(-1, 2)
    x, y = table[np.argsort(-table[:, 0], kind="stable")].T
    return float(-np.diff(x, append=0.0) @ np.maximum.accumulate(y)) if len(x) else 0.0


def expected_best(values: Sequence[float]) -> list[float]:
    """The expected highest value of k of the n trials, for k = 1 ... n (Dodge et al. 2019).

    E_k = sum_i v_(i) ((i/n)^k - ((i-1)/n)^k), v sorted from worst to best: k draws with repetition.
    A method that needs luck has a curve that rises late.
    """
    ordered, n = np.sort(np.asarray(values, dtype=float)), len(values)
    shares = np.arange(n + 1) / max(n, 1)
    return [float(ordered @ np.diff(shares**k)) for k in range(1, n + 1)]
