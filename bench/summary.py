"""The record of a benchmark: raw rows as csv, the table of docs/performance.md, the plots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.targets import lines_of
from bench.timings import COLUMNS, Timings
from palimpsest.io.atomic import write_json, write_text
from palimpsest.io.markdown import renewed

MARKS = ("<!-- performance: begin -->", "<!-- performance: end -->")

GROWTH = "![Seconds against tokens, for more rows and for more steps](growth.svg)"

HEAD = ["piece", "plain form", "ours", "plain / ours", "ratio of CPU time", "ratio of products"]
HEAD += ["limit", "target", "reached", "CUDA"]


class Record:
    """Files in a folder: performance.csv, performance.json, the page, the plots."""

    def __init__(self, folder: Path) -> None:
        """Read what is there."""
        self.folder = folder
        self._csv, self._json = folder / "performance.csv", folder / "performance.json"
        self.rows: list[dict[str, Any]] = []
        if self._csv.exists():
            with open(self._csv, newline="", encoding="utf-8") as handle:
                self.rows = list(csv.DictReader(handle))
        has_facts = self._json.exists()
        self.facts: dict[str, Any] = (
            json.loads(self._json.read_text(encoding="utf-8")) if has_facts else {}
        )

    def replace(
        self,
        piece: str,
        rows: Sequence[Mapping[str, Any]],
        forms: Mapping[str, Any],
        machine: Mapping[str, Any],
    ) -> None:
        """Put new rows of a piece in the place of the old ones."""
        others = [row for row in self.rows if row["piece"] != piece]
        self.rows = [*others, *({key: str(row[key]) for key in COLUMNS} for row in rows)]
        self.facts.setdefault("forms", {})[piece] = dict(forms)
        self.facts.setdefault("machines", {})[piece] = dict(machine)

    def publish(self) -> None:
        """Write the csv, the facts, the table and the plots.

        Raises:
            UserError: the page lacks its marks.
        """
        from bench.plots import growth, ratios  # slow to import

        self.folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._csv, text.getvalue())
        write_json(self._json, self.facts)
        timings = Timings(self.rows, self.facts)
        lines = lines_of(timings)
        write_text(self.folder / "performance.svg", ratios(lines))
        if plot := growth(timings):
            write_text(self.folder / "growth.svg", plot)
        page = self.folder / "performance.md"
        if page.exists():
            before = page.read_text(encoding="utf-8")
            write_text(page, renewed(page, before, MARKS, markdown(lines, timings)))


def markdown(lines: Iterable[Any], timings: Timings) -> str:
    """The table, and the machine and data of the measurement."""
    cells = [
        [
            line.title,
            line.plain,
            line.ours,
            line.ratio,
            line.cpu_ratio,
            line.products,
            line.limit,
            line.target,
            line.reached,
            "not measured",
        ]
        for line in lines
    ]
    rule = ["---", *["---:"] * 7, "---", "---"]
    table = "".join(f"| {' | '.join(row)} |\n" for row in [HEAD, rule, *cells])
    grown = f"\n{GROWTH}\n" if timings.has("growth", "ours") else ""
    return f"{table}\n{described(timings)}{grown}"


def described(timings: Timings) -> str:
    """Machines, data, and how far the results of the two forms differ."""
    facts = timings.facts
    machines: dict[str, list[str]] = {}
    for piece, machine in facts.get("machines", {}).items():
        text = "; ".join(f"{name} {value}" for name, value in sorted(machine.items()))
        machines.setdefault(text, []).append(piece)
    single = len(machines) == 1
    heading = "".join(
        f"Machine{'' if single else ' of ' + ', '.join(pieces)}: {machine}.\n\n"
        for machine, pieces in machines.items()
    )
    data = "; ".join(f"{name}: {value}" for name, value in facts.get("data", {}).items())
    difference = timings.largest_difference()
    same = (
        f"\n\nResults of the first timed repeat, plain form against ours: the largest difference "
        f"is {difference[0]:.1e} of a piece's largest result ({difference[1]})."
        if difference
        else ""
    )
    return f"{heading}Data: {data}.{same}\n"
