"""Compare: a method with the subject, row by row, and with `retrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.io.sealed import write_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.compare import differences
from palimpsest.metrics.measures import comparisons
from palimpsest.pipeline.stages import Compare

SCHEMA_VERSION = 1
"""Version of compare.json."""


def compare(job: Compare) -> dict[str, Any]:
    """Write compare.json.

    Returns:
        What was written.
    """
    method, original = _frame(job.rows), _frame(job.original)
    retrained = None if job.retrained is None else _frame(job.retrained)
    settings = job.config["score"]
    result = {
        "schema_version": SCHEMA_VERSION,
        "model": job.config["model"],
        "method": job.config["method"],
        "confidence": settings["confidence"],
        "differences": differences(method, original, settings),
    } | {
        entry.name: entry.compute(method, original, retrained, settings) for entry in comparisons()
    }
    write_document(job.out, result)
    return result


def _frame(path: Path) -> pd.DataFrame:
    return read_table(path)[0].to_pandas()
