"""Rows of rows.parquet as data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def by_seed(frame: pd.DataFrame, block: object, column: str) -> pd.DataFrame | None:
    """Values [seeds, rows] of a column, of the rows that have one in every seed."""
    if column not in frame:
        return None
    lines = frame[frame["part"] == block].dropna(subset=[column])
    if lines.empty:
        return None
    table = lines.assign(**{column: lines[column].astype(float)}).pivot_table(
        index="seed", columns="id", values=column
    )
    return table.dropna(axis=1)


def groups_of(frame: pd.DataFrame, block: object, ids: pd.Index) -> np.ndarray:
    """The label of each row's group, see `palimpsest.metrics.parts.independent`."""
    lines = frame[frame["part"] == block].drop_duplicates("id").set_index("id")
    return np.asarray(lines.loc[ids, "group"], dtype=str)
