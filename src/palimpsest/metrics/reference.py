"""Truth ratios of a model that never learned what is forgotten, from somebody else's log.

What is read of a log: `palimpsest.metrics.logs`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from palimpsest.errors import UserError
from palimpsest.io.artifacts import ROWS
from palimpsest.io.tables import read_table
from palimpsest.metrics.logs import frame, read_log


def reference_rows(path: Path, kind: str) -> pd.DataFrame:
    """Rows of a reference, as rows.parquet has them.

    Args:
        path: a folder with rows.parquet, that file, or a log (see `palimpsest.metrics.logs`).
        kind: ``score.truth_ratio``, by which losses become a ratio.

    Raises:
        UserError: it is none of these, or no log with truth ratios of the forget rows.
    """
    file = path / ROWS if (path / ROWS).exists() else path
    if file.suffix == ".parquet":
        return read_table(file)[0].to_pandas()
    rows = frame(read_log(file, kind))
    if rows.empty:
        raise UserError(f"{file}: the log has no truth ratios of the forget rows")
    return rows


def refuse_another_split(method: pd.DataFrame, reference: pd.DataFrame, where: object) -> None:
    """Check that a reference has as many forget rows as the method.

    Raises:
        UserError: it has another number, of rows and of truth ratios: the p-value of the test would
            mean nothing.
    """
    counts = []
    for frame_ in (method, reference):
        if "truth_ratio" in frame_:
            rows = frame_.loc[frame_["part"] == "forget", ["id", "truth_ratio"]]
            counts.append((rows["id"].nunique(), rows.dropna()["id"].nunique()))
    # A row without a number (a log's null) is none of another split.
    if len(counts) == 2 and not set(counts[0]) & set(counts[1]):
        raise UserError(
            f"{where} has truth ratios of {counts[1][1]} forget rows, and the method of "
            f"{counts[0][1]}: it is of another split; take the reference of this one, or evaluate "
            "as many rows (`rows` of a part)"
        )
