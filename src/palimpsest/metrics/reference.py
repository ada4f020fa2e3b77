"""Truth ratios of a model that never learned what is forgotten, from somebody else's log.

Read are OpenUnlearning's ``TOFU_EVAL.json``, and the logs of TOFU's and NPO's own code
(``eval_log_aggregated.json``, ``eval_log_forget.json``): a number by row, or lists in row order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.errors import UserError
from palimpsest.io.artifacts import ROWS
from palimpsest.io.tables import read_table
from palimpsest.metrics.measures.truth_ratio import truth_ratio

_OF_OPEN_UNLEARNING = "forget_truth_ratio"
_OF_TOFU = "eval_log_forget.json"
_RIGHT, _WRONG = "avg_paraphrased_loss", "average_perturb_loss"


def reference_rows(path: Path, kind: str) -> pd.DataFrame:
    """Rows of a reference, as rows.parquet has them.

    Args:
        path: a folder with rows.parquet, that file, or a log in JSON (see above).
        kind: ``score.truth_ratio``, by which losses become a ratio.

    Raises:
        UserError: it is none of these, or no log with truth ratios of the forget rows.
    """
    file = path / ROWS if path.is_dir() else path
    if file.suffix == ".parquet":
        return read_table(file)[0].to_pandas()
    ratios = log_ratios(file, kind)
    names = [f"row {i}" for i in range(len(ratios))]
    facts = {"seed": 0, "part": "forget", "id": names, "group": names}
    return pd.DataFrame({**facts, "truth_ratio": ratios, "answer": None})


def log_ratios(file: Path, kind: str) -> list[float]:
    """R of each forget row of a log, in the order of the rows."""
    try:
        log = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a log in JSON ({error})") from error
    log = log if isinstance(log, dict) else {}
    if _OF_OPEN_UNLEARNING in log:
        if kind != "geometric":
            raise UserError(
                f"{file}: OpenUnlearning's truth ratios are geometric, and score.truth_ratio is "
                f"{kind}; set it to geometric"
            )
        scores = _in_order(log[_OF_OPEN_UNLEARNING].get("value_by_index"), file)
        return [float(one["score"]) for one in scores if one and one.get("score") is not None]
    rows = log.get(_OF_TOFU, log)
    if not {_RIGHT, _WRONG} <= rows.keys():
        raise UserError(
            f"{file}: no truth ratios of the forget rows: neither {_OF_OPEN_UNLEARNING} "
            f"(OpenUnlearning's TOFU_EVAL.json) nor {_RIGHT} and {_WRONG} (TOFU's own logs)"
        )
    right, wrong = (_in_order(rows[name], file) for name in (_RIGHT, _WRONG))
    if len(right) != len(wrong):
        raise UserError(f"{file}: {_RIGHT} has {len(right)} rows, {_WRONG} has {len(wrong)}")
    return [
        truth_ratio(-r, [-w for w in others], kind) for r, others in zip(right, wrong, strict=True)
    ]


def _in_order(values: Any, file: Path) -> Sequence[Any]:
    """A list as it is, a table in the order of its row numbers."""
    if isinstance(values, Mapping):
        try:
            return [values[key] for key in sorted(values, key=int)]
        except ValueError as error:
            raise UserError(f"{file}: a number of a row is needed ({error})") from None
    if not isinstance(values, list):
        raise UserError(f"{file}: a value for each row is needed")
    return values


def refuse_another_split(method: pd.DataFrame, reference: pd.DataFrame, where: Path) -> None:
    """Check that a reference has as many forget rows as the method.

    Raises:
        UserError: it has another number: the p-value of the test would mean nothing.
    """
    counts = [
        frame.loc[frame["part"] == "forget", ["id", "truth_ratio"]].dropna()["id"].nunique()
        for frame in (method, reference)
        if "truth_ratio" in frame
    ]
    if len(set(counts)) > 1:
        raise UserError(
            f"{where} has truth ratios of {counts[1]} forget rows, and the method of {counts[0]}: "
            "it is of another split; take the reference of this one, or evaluate as many rows "
            "(`rows` of a part)"
        )
