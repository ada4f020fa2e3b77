"""Figures from the raw rows: medians, ranges, ratios of pairs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = ["piece", "form", "size", "repeat", "wall_s", "cpu_s", "peak_mb", "tokens"]


@dataclass(frozen=True)
class Spread:
    """A median with the least and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of `values`."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 3) -> str:
        """``1.23 (1.20 to 1.31)``; a single value stands alone."""
        low, median, high = (figure(v, digits) for v in (self.low, self.median, self.high))
        return median if self.low == self.high else f"{median} ({low} to {high})"


def figure(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, without an exponent."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


@dataclass(frozen=True)
class Timings:
    """Rows of ``performance.csv`` (as text), and the facts of ``performance.json``."""

    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]

    def column(self, piece: str, form: str, name: str, size: str = "") -> list[float]:
        """A column of one form, in the order of the repeats."""
        return [
            float(row[name])
            for row in self.rows
            if (row["piece"], row["form"], row["size"]) == (piece, form, size) and row[name] != ""
        ]

    def has(self, piece: str, *forms: str) -> bool:
        """Whether all these forms were timed."""
        timed = {row["form"] for row in self.rows if row["piece"] == piece}
        return timed.issuperset(forms)

    def seconds(self, piece: str, form: str, size: str = "") -> Spread:
        """Wall seconds of one form."""
        return Spread.of(self.column(piece, form, "wall_s", size))

    def peak(self, piece: str, form: str) -> float:
        """Most memory of one form's process, MB."""
        return max(self.column(piece, form, "peak_mb"))

    def ratio(self, name: str, above: tuple[str, str], below: tuple[str, str]) -> Spread:
        """Ratios of the pairs of repeats; `name` is the column."""
        pairs = zip(self.column(*above, name), self.column(*below, name), strict=False)
        return Spread.of([a / b for a, b in pairs])

    def fact(self, piece: str, form: str, name: str) -> float:
        """The facts that a form reports."""
        value: float = self.facts["forms"][piece][form][name]
        return value

    def largest_difference(self) -> tuple[float, str] | None:
        """Largest difference between a result of the plain form and of ours.

        As a share of the piece's largest result: a term near zero is mostly rounding error.
        """
        differences = []
        for piece, forms in self.facts.get("forms", {}).items():
            plain, ours = (forms.get(form, {}).get("values", {}) for form in ("plain", "ours"))
            scale = max(map(abs, plain.values()), default=0) or 1
            differences += [
                (abs(plain[name] - ours[name]) / scale, f"{piece}, {name}")
                for name in plain.keys() & ours.keys()
            ]
        return max(differences, default=None)
