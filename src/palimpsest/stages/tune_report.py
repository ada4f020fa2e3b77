"""Names the rows that report a tuned method: those about no fact that chose its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from palimpsest.data.choosing import refuse_shared, reporting
from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document, write_document
from palimpsest.measuring.alternatives import DataRow, read_data
from palimpsest.measuring.facts import facts_of
from palimpsest.pipeline.stages import TuneReport


def report(job: TuneReport) -> None:
    """Write ``report.json``: block of what is to be forgotten -> ids.

    Raises:
        UserError: a part is missing or altered, none of its rows is left, or a row that chooses is
            reported.
    """
    config, split = job.config, read_document(job.split)
    choose = {name: read_data(job.datasets, ref) for name, ref in config["choose"].items()}
    blocks = {name: read_data(job.datasets, ref) for name, ref in config["report"].items()}
    others = [row for ref in config["wordings"] for row in read_data(job.datasets, ref)]
    facts = facts_of([*blocks["forget"], *choose["forget"]], others)
    gone = reporting(facts, {row.fact for row in blocks["forget"]}, set(split["facts"]))
    reported = {
        name: [row.id for row in rows if row.fact not in gone] for name, rows in blocks.items()
    }
    for name, ids in reported.items():
        if not ids:
            raise UserError(
                f"evaluate.{name}: no row is left without those about facts that choose settings; "
                "lower tuning.<plan>.rows.forget, or name more rows"
            )
    _refuse_shared(job.datasets, config["kept"], choose, split["choose"])
    write_document(job.out, {"report": reported, "hash": split["hash"]})


def _refuse_shared(
    datasets: Path,
    kept: Mapping[str, str],
    choose: Mapping[str, Sequence[DataRow]],
    ids: Mapping[str, Sequence[str]],
) -> None:
    # Rows to forget are divided by their facts; those to keep stand in parts of their own.
    one = {
        f"validate_on.{name}": [(r.id, _text(r)) for r in choose[name] if r.id in set(ids[name])]
        for name in ids
        if name != "forget"
    }
    other = {
        f"evaluate.{name}": [(row.id, _text(row)) for row in read_data(datasets, ref)]
        for name, ref in kept.items()
    }
    refuse_shared(one, other)


def _text(row: DataRow) -> str:
    return f"{row.prompt} {row.response}"
