"""A method against `original`, the model before unlearning: differences row by row.

Works on rows.parquet of each: rows are paired by block and id, so that only the methods differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from palimpsest.metrics.declaration import Column
from palimpsest.metrics.estimates import Estimate, Settings, mean
from palimpsest.metrics.frames import by_seed, groups_of
from palimpsest.metrics.intervals import Bounds
from palimpsest.metrics.measures import columns, measures

if TYPE_CHECKING:
    import pandas as pd


def differences(
    method: pd.DataFrame, original: pd.DataFrame, settings: Settings
) -> dict[str, dict[str, Estimate]]:
    """Block -> measure -> mean over rows of method minus original, with a paired interval.

    Args:
        method: rows.parquet, one line per seed and row.
        original: the same of ``original``.
        settings: config section ``score``.
    """
    by_block = {}
    for block in dict.fromkeys(method["part"]):
        pairs = {}
        for column in (column for column in columns() if column.difference):
            after, prior = (by_seed(f, block, column.name) for f in (method, original))
            if after is not None and prior is not None:
                rows = after.columns.intersection(prior.columns)
                gap = after[rows].to_numpy() - prior[rows].mean(axis=0).to_numpy()
                groups = groups_of(method, block, rows)
                why, bounds = "no row has both values", change_bounds(column)
                pairs[column.difference] = mean(gap, groups, settings, why, bounds)
        by_block[str(block)] = pairs
    return by_block


def change_bounds(column: Column) -> Bounds | None:
    """Between which values the change of a row's value lies; None where it has no bounds."""
    share = pa.types.is_boolean(column.type) or any(
        m.share for m in measures() if m.column is column and m.compute is None
    )
    return (-1.0, 1.0) if share else None
