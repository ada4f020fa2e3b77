"""Compare: a method with the subject, row by row, and with `retrained`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.compare import differences
from palimpsest.metrics.measures import comparisons
from palimpsest.metrics.reference import reference_rows, refuse_another_split
from palimpsest.pipeline.stages import Compare
from palimpsest.sources.names import split_source

SCHEMA_VERSION = 1
"""Version of compare.json."""


def compare(job: Compare) -> dict[str, Any]:
    """Write compare.json.

    Returns:
        What was written.

    Raises:
        UserError: the tables are of models in different number types.
    """
    _check_types([job.rows, job.original, *filter(None, [job.retrained])])
    method, original = _frame(job.rows), _frame(job.original)
    retrained = None if job.retrained is None else _frame(job.retrained)
    if retrained is not None and job.config["method"] != "retrained":
        _refuse_itself(job, method, retrained)
    settings = job.config["score"]
    if (given := job.config.get("reference")) and job.config["method"] != "retrained":
        settings = {**settings, "reference_auc": given["auc"]}
        if given["rows"] is not None:
            place = Path(split_source(given["rows"])[1]).expanduser()
            retrained = reference_rows(place, given["truth_ratio"])
            # A tuned method reports a share of the rows; `original` has all.
            refuse_another_split(original, retrained, place)
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


def _refuse_itself(job: Compare, method: pd.DataFrame, retrained: pd.DataFrame) -> None:
    """Refuse a reference that is the method itself: every distance to it would be 0.

    Raises:
        UserError: both give every row the same likelihood.
    """
    keys, column = ["part", "id"], "mean_logprob"
    if column not in method or column not in retrained:
        return
    one, other = (f.set_index(keys)[column].sort_index() for f in (method, retrained))
    if len(one) and one.equals(other):
        raise UserError(
            f"{job.retrained} and {job.rows} give every row the same likelihood: 'retrained' is "
            f"the model of '{job.config['method']}' itself, and cannot be its reference; name a "
            "model that never learned what is forgotten (models.<model>.retrained)"
        )


def _check_types(tables: Sequence[Path]) -> None:
    """Refuse rows whose models had different number types: that alone changes answers.

    Raises:
        UserError: they differ.
    """
    types = {path: read_table(path)[1].get("dtype") for path in tables}
    if len({name for name in types.values() if name}) > 1:
        named = ", ".join(f"{path} in {name}" for path, name in types.items())
        raise UserError(
            f"measured in different number types: {named}; set dtype in bases.<base> to one of "
            "them and run the same command again"
        )


def _frame(path: Path) -> pd.DataFrame:
    return read_table(path)[0].to_pandas()
