"""The report: results of all subjects and methods as one offline page, and its tables."""

from __future__ import annotations

from palimpsest.io.atomic import write_text
from palimpsest.pipeline.stages import Report
from palimpsest.report.inputs import read_subjects
from palimpsest.report.page import page_name, render, tables_address
from palimpsest.report.tables import report_tables, write_tables


def report(job: Report) -> None:
    """Write a page and its tables (`palimpsest.report.tables.report_tables`, each csv and parquet).

    Args:
        job: its config has ``report.models``, ``report.examples`` and ``titles``.

    Raises:
        UserError: a result that the slice names is missing or damaged.
    """
    subjects = read_subjects(job.config, job.results)
    write_tables(report_tables(subjects), job.tables)
    page = render(
        subjects,
        job.config["report"]["examples"],
        tables_address(job.out, job.tables),
        page_name(job.out),
    )
    write_text(job.out, page)
