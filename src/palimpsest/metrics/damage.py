"""What stands beside the values of attacked rows: kept rows, other words, text that is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palimpsest.attacks import FORGET, RETAIN, UNSEEN
from palimpsest.metrics.estimates import rounded

if TYPE_CHECKING:
    import pandas as pd

RATES = ("rate", "unseen", "degenerate", "retain_recall", "retain_degenerate")
"""Of the rows to forget: values, those in unseen words, and degenerate answers; of kept ones."""


def rates_of(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Setting -> `RATES` and ``n``, the number of rows to forget; None where nothing was measured.

    Args:
        frame: ``{attack}.parquet``.
    """
    means = frame.assign(degenerate=frame["degenerate"].astype(float))
    means = means.groupby(["setting", "part"])[["value", "degenerate"]].mean()
    counts = frame[frame["part"] == FORGET].groupby("setting")["id"].nunique()
    places = {
        "rate": (FORGET, "value"),
        "unseen": (UNSEEN, "value"),
        "degenerate": (FORGET, "degenerate"),
        "retain_recall": (RETAIN, "value"),
        "retain_degenerate": (RETAIN, "degenerate"),
    }
    return {
        str(setting): {
            "n": int(counts.get(setting, 0)),
            **{
                name: _number(means[column].get((setting, part)))
                for name, (part, column) in places.items()
            },
        }
        for setting in sorted(set(frame["setting"]))
    }


def values_of(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Setting -> row to forget -> its value, the mean over seeds of the attack."""
    forget = frame[frame["part"] == FORGET]
    means = forget.groupby(["setting", "id"], as_index=False)["value"].mean()
    found: dict[str, dict[str, float]] = {}
    for setting, row, value in zip(means["setting"], means["id"], means["value"], strict=True):
        found.setdefault(str(setting), {})[str(row)] = float(value)
    return found


def averaged(rates: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each rate over those that have it: of seeds, or of settings."""
    names = dict.fromkeys(name for one in rates for name in one)
    means = {name: mean_of(one.get(name) for one in rates) for name in names}
    return {
        name: int(mean) if mean is not None and mean.is_integer() else mean
        for name, mean in means.items()
    }


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers among them."""
    known = [value for value in values if value is not None]
    return rounded(sum(known) / len(known)) if known else None


def _number(value: Any) -> float | None:
    return None if value is None or value != value else rounded(float(value))
