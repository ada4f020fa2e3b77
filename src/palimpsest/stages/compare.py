"""Compare: what unlearning changed, row by row, and how close it came to never having learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.io.sealed import write_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.compare import differences
from palimpsest.metrics.measures import comparisons

SCHEMA_VERSION = 1
"""Version of compare.json."""


def compare(
    config: Mapping[str, Any], rows: Path, before: Path, retrained: Path | None, out: Path
) -> dict[str, Any]:
    """Write compare.json.

    Args:
        config: the stage's slice: model, method, score.
        rows: rows.parquet of the method.
        before: that of ``original``.
        retrained: that of ``retrained``; None where it is not compared with.
        out: the file to write.

    Returns:
        What was written.
    """
    method, prior = _frame(rows), _frame(before)
    gold = None if retrained is None else _frame(retrained)
    settings = config["score"]
    result = {
        "schema_version": SCHEMA_VERSION,
        "model": config["model"],
        "method": config["method"],
        "confidence": settings["confidence"],
        "differences": differences(method, prior, settings),
    } | {one.name: one.compute(method, prior, gold, settings) for one in comparisons()}
    write_document(out, result)
    return result


def _frame(path: Path) -> pd.DataFrame:
    return read_table(path)[0].to_pandas()
