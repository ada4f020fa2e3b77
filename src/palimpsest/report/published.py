"""Our results on the KnowUnDo privacy set beside the paper's, as a table for docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.atomic import write_text

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
"""Between these lines the page is written by `write_page`."""

PAPER = {
    "original": (0.00, 100.00, 50.00),
    "gradient_ascent": (96.56, 2.50, 49.53),
    "ga_gd": (90.38, 66.02, 78.20),
    "ga_kl": (97.74, 2.30, 50.02),
    "memflex": (82.95, 81.80, 82.37),
}
"""Unlearn Success, Retention Success and their mean, per cent: arXiv:2407.01920v2, table 2
(Llama-2-7B-Chat, User Privacy, in-distribution variants)."""

MEASURES = ("unlearn_success", "retention_success", "average")


def write_page(page: Path, evaluations: Mapping[str, Path], titles: Mapping[str, str]) -> None:
    """Renew the table in `page`.

    Args:
        page: the Markdown file, with the lines BEGIN and END.
        evaluations: method -> its eval.json, in the order shown.
        titles: method -> name shown.

    Raises:
        UserError: a result is missing, or the page lacks one of the two lines.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} lacks one of the lines {BEGIN!r} and {END!r}")
    table = table_text({m: _measures(path) for m, path in evaluations.items()}, titles)
    write_text(page, f"{before}{BEGIN}\n\n{table}\n{END}{after}")


def table_text(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]], titles: Mapping[str, str]
) -> str:
    """A Markdown table: ours with intervals, and the paper's where it has the method."""
    names = ["Unlearn Success", "Retention Success", "average"]
    lines = [
        "| method | " + " | ".join(names) + " | " + " | ".join(f"paper: {n}" for n in names) + " |",
        "| --- |" + " ---: |" * 6,
    ]
    for method, measures in results.items():
        ours = [_percent(measures[name]) for name in MEASURES]
        theirs = [f"{value:.2f}" for value in PAPER.get(method, ())] or [""] * 3
        lines.append("| " + " | ".join([titles.get(method, method), *ours, *theirs]) + " |")
    return "\n".join(lines) + "\n"


def _measures(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["metrics"]["knowundo"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `make results`") from None


def _percent(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return f"none ({measure['reason']})"
    if not measure["ci95"]:
        return f"{100 * measure['value']:.1f}"
    low, high = measure["ci95"]
    return f"{100 * measure['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
