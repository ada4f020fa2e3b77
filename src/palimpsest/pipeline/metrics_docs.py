"""Generate ``workflow/schemas/eval.schema.json`` and the tables of ``docs/metrics.md``.

Both follow from the declarations in `palimpsest.metrics.measures`.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path
from types import ModuleType

from palimpsest.io.markdown import read_page, renewed, table
from palimpsest.judges import JUDGES
from palimpsest.metrics.declaration import PARTS, Column, Comparison, Measure
from palimpsest.metrics.measures import columns, declared_in, files, measures
from palimpsest.metrics.robust_schema import texts
from palimpsest.metrics.schema import schema_text

PAGE, SCHEMA = Path("docs/metrics.md"), Path("workflow/schemas/eval.schema.json")
DIRECTIONS, JUDGE_TABLE, OTHERS = "directions", "judges", "others"
"""Tables of no single file: which direction is good; judges; files without marks on the page."""
RUNS = {
    "scoring": "`score`",
    "processor": "`judge`, CPU",
    "model": "`judge`, GPU",
    "service": "`judge`, network",
}
"""Value of `palimpsest.judges.JudgeSettings.runs` -> its meaning."""

HEAD = ("measure", "formula", "of the block", "source")


def marks(name: str) -> tuple[str, str]:
    """The lines of the page between which a table stands."""
    return f"<!-- measures: {name} -->", f"<!-- end of measures: {name} -->"


def page_text(page: str) -> str:
    """`page` with its tables renewed.

    A file's table stands between the `marks` of its name; a file without marks is in the table
    `OTHERS`.

    Raises:
        UserError: a pair of marks is not there.
    """
    tables = {_name(file): table_of([file]) for file in files() if marks(_name(file))[0] in page}
    tables |= {DIRECTIONS: directions(), JUDGE_TABLE: judge_table()}
    tables[OTHERS] = table_of([file for file in files() if _name(file) not in tables])
    for name, text in tables.items():
        page = renewed(PAGE, page, marks(name), text)
    return page


def table_of(modules: list[ModuleType]) -> str:
    """The measures of `modules`; columns that are empty in every line are left out."""
    lines = [line for file in modules for line in _lines(file)]
    if not lines:
        return "None.\n"
    shown = [i for i in range(len(HEAD)) if any(line[i] for line in lines)]
    head, *rows = [[line[i] for i in shown] for line in [HEAD, *lines]]
    return table(head, rows)


def directions() -> str:
    """Which direction is good, measures of equal directions in one line."""
    names: dict[tuple[bool, str, str], list[str]] = defaultdict(list)
    for measure in measures():
        of_parts = measure.blocks[0] in PARTS
        name = measure.name if of_parts else f"{measure.blocks[0]}.{measure.name}"
        names[not of_parts, measure.forget, measure.retain].append(f"`{name}`")
    lines = [(", ".join(names[key]), key[1], key[2]) for key in sorted(names, key=lambda k: k[0])]
    return table(("measure", "`forget*`", "`retain*`, `general`"), lines)


def judge_table() -> str:
    """Every judge: the first lines of its file and of its function, and where it runs."""
    lines = [
        (f"`{name}`", _first_line(judge), _first_line(judge.judge), RUNS[judge.Settings.runs])
        for name, judge in JUDGES.all().items()
    ]
    return table(("judge", "what it is", "verdict", "runs in"), lines)


def pages(root: Path) -> dict[Path, str]:
    """Files below `root` -> what they should hold.

    Raises:
        UserError: the page lacks the marks of a table.
    """
    others = {SCHEMA.parent / name: text for name, text in texts().items()}
    return {PAGE: page_text(read_page(root / PAGE)), SCHEMA: schema_text(), **others}


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


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0].replace("``", "`")


def _name(file: ModuleType) -> str:
    return file.__name__.rpartition(".")[2]
