"""Generate ``workflow/schemas/eval.schema.json`` and the tables of ``docs/metrics.md``.

``python -m palimpsest.metrics.docs`` writes them; ``--check`` exits with 1 if they are outdated.
Both follow from the declarations in `palimpsest.metrics.measures`.
"""

from __future__ import annotations

import argparse
import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from palimpsest.errors import UserError, run_cli
from palimpsest.io.atomic import write_text
from palimpsest.metrics.declaration import PARTS, Column, Comparison, Measure
from palimpsest.metrics.measures import columns, declared_in, files, measures
from palimpsest.metrics.schema import schema_text

PAGE, SCHEMA = Path("docs/metrics.md"), Path("workflow/schemas/eval.schema.json")
DIRECTIONS, OTHERS = "directions", "others"
"""Tables of no single file: which direction is good; the files without marks on the page."""

HEAD = ("measure", "formula", "of the block", "source")


def marks(table: str) -> tuple[str, str]:
    """The lines of the page between which a table stands."""
    return f"<!-- measures: {table} -->", f"<!-- end of measures: {table} -->"


def page_text(page: str) -> str:
    """`page` with its tables renewed.

    A file's table stands between the `marks` of its name; a file without marks is in the table
    `OTHERS`.

    Raises:
        UserError: a pair of marks is not there.
    """
    tables = {_name(file): table_of([file]) for file in files() if marks(_name(file))[0] in page}
    tables[DIRECTIONS] = directions()
    tables[OTHERS] = table_of([file for file in files() if _name(file) not in tables])
    for name, table in tables.items():
        first, last = marks(name)
        before, begin, rest = page.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            raise UserError(f"{PAGE} lacks one of the lines {first!r} and {last!r}")
        page = f"{before}{begin}\n\n{table}\n{end}{after}"
    return page


def table_of(modules: list[ModuleType]) -> str:
    """The measures of `modules`; columns that are empty in every line are left out."""
    lines = [line for file in modules for line in _lines(file)]
    if not lines:
        return "None.\n"
    shown = [i for i in range(len(HEAD)) if any(line[i] for line in lines)]
    return _markdown([[line[i] for i in shown] for line in [HEAD, *lines]])


def directions() -> str:
    """Which direction is good, measures of equal directions in one line."""
    names: dict[tuple[bool, str, str], list[str]] = defaultdict(list)
    for measure in measures():
        of_parts = measure.blocks[0] in PARTS
        name = measure.name if of_parts else f"{measure.blocks[0]}.{measure.name}"
        names[not of_parts, measure.forget, measure.retain].append(f"`{name}`")
    lines = [(", ".join(names[key]), key[1], key[2]) for key in sorted(names, key=lambda k: k[0])]
    return _markdown([("measure", "`forget*`", "`retain*`, `general`"), *lines])


def outdated(root: Path) -> dict[Path, str]:
    """Files below `root` that are not current -> what they should hold."""
    page, schema = root / PAGE, root / SCHEMA
    texts = {page: page_text(_read(page)), schema: schema_text()}
    return {path: text for path, text in texts.items() if _read(path) != text}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout; default: here")
    args = parser.parse_args()
    texts = outdated(args.root)
    if args.check and texts:
        names = ", ".join(map(str, texts))
        raise UserError(f"{names}: outdated; run `python -m palimpsest.metrics.docs`")
    for path, text in texts.items():
        write_text(path, text)
        print(f"wrote {path}")


def _lines(file: ModuleType) -> list[tuple[str, str, str, str]]:
    lines = [(f"`{m.name}`", m.says, m.of_part, m.source) for m in declared_in(file, Measure)]
    lines += [
        (f"`{c.name}`", c.says, "in `rows.parquet` alone", c.source)
        for c in declared_in(file, Column)
        if c.says
    ]
    compared = declared_in(file, Comparison)
    if compared:
        lines.append(_differences())
    return lines + [(f"`{c.name}`", c.says, "", c.source) for c in compared]


def _differences() -> tuple[str, str, str, str]:
    names = ", ".join(f"`{column.difference}`" for column in columns() if column.difference)
    says = (
        f"per block the mean over rows of method minus `original`, of {names}; the interval draws "
        "rows in pairs, so that it is narrow where every row changes alike. `mean_logprob` (nats a "
        "token) stands for perplexity, which has no value per row"
    )
    return "`differences`", says, "", ""


def _name(file: ModuleType) -> str:
    return file.__name__.rpartition(".")[2]


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    run_cli(main)
