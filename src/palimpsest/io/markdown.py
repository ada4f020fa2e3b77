"""Pages in Markdown: tables, and the places of a page that are written by a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from palimpsest.errors import UserError


def table(head: Sequence[str], lines: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """A table, its last line ended; with `numbers` all columns but the first stand at the right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    rows = [head, rule, *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def renewed(path: Path, page: str, marks: tuple[str, str], text: str) -> str:
    """`page` with `text` between the lines `marks`.

    Raises:
        UserError: one of the lines is not there; the message names the page by `path`.
    """
    first, last = marks
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UserError(f"{path} lacks one of the lines {first!r} and {last!r}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def read_page(path: Path) -> str:
    """The text of a file; empty if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
