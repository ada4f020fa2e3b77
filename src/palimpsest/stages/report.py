"""The report: results of all subjects and methods as one offline page, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.io.atomic import write_text
from palimpsest.report.inputs import read_subjects
from palimpsest.report.page import page_name, render, tables_address
from palimpsest.report.tables import report_tables, write_tables


def write_report(
    config: dict[str, Any], results_dir: Path, out_html: Path, tables_dir: Path
) -> None:
    """Write a page and its tables (`palimpsest.report.tables.NAMES`, each csv and parquet).

    Args:
        config: the stage's slice: ``report.models``, ``report.examples``, ``titles``.
        results_dir: the folder ``results/`` that is read.
        out_html: the page, ``results/report.html`` or ``results/all_methods.html``.
        tables_dir: folder of the tables, ``results/tables`` or ``results/all_methods``.

    Raises:
        UserError: a result that the slice asks for is missing or damaged.
    """
    subjects = read_subjects(config, Path(results_dir))
    out_html, tables_dir = Path(out_html), Path(tables_dir)
    write_tables(report_tables(subjects), tables_dir)
    page = render(
        subjects,
        config["report"]["examples"],
        tables_address(out_html, tables_dir),
        page_name(out_html),
    )
    write_text(out_html, page)
