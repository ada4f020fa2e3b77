"""Divides the rows between those that choose settings and those that report the result."""

from __future__ import annotations

from pathlib import Path

from palimpsest.data.choosing import (
    choosing_facts,
    drawn,
    one_wording,
    refuse_shared,
    split_document,
)
from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.measuring.alternatives import DataRow, read_data
from palimpsest.measuring.facts import facts_of
from palimpsest.pipeline.stages import TuneSplit


def split(job: TuneSplit) -> None:
    """Write ``split.json``.

    Raises:
        UserError: a part is missing or altered, there are too few facts, or a row that chooses is
            reported.
    """
    config = job.config
    choose = {name: read_data(job.datasets, ref) for name, ref in config["choose"].items()}
    report = {name: read_data(job.datasets, ref) for name, ref in config["report"].items()}
    others = [row for ref in config["wordings"] for row in read_data(job.datasets, ref)]
    rows = config["rows"]
    facts = facts_of([*report["forget"], *choose["forget"]], others)
    chosen = choosing_facts(facts, rows["forget"])
    pairs = [(row.id, row.fact) for row in choose["forget"]]
    ids = {"forget": one_wording(pairs, chosen & {fact for _, fact in pairs})}
    for name in choose.keys() - {"forget"}:
        ids[name] = drawn([row.id for row in choose[name]], rows[name], name)
    reported = {
        name: [row.id for row in found if row.fact not in chosen] for name, found in report.items()
    }
    _refuse_empty({"validate_on.forget": ids["forget"]})
    _refuse_empty({f"evaluate.{name}": rows for name, rows in reported.items()})
    _refuse_shared(job.datasets, config, choose, ids)
    write_document(job.out, split_document(ids, reported, len(facts)))


def _refuse_empty(rows: dict[str, list[str]]) -> None:
    for key, names in rows.items():
        if not names:
            raise UserError(
                f"{key}: no row is left after the facts were divided between those that choose "
                "and those that report; change tuning.<plan>.rows.forget, or name more rows"
            )


def _refuse_shared(
    datasets: Path,
    config: dict[str, dict[str, str]],
    choose: dict[str, list[DataRow]],
    ids: dict[str, list[str]],
) -> None:
    # Rows to forget are divided by their facts; those to keep stand in parts of their own.
    one = {
        f"validate_on.{name}": [(r.id, _text(r)) for r in choose[name] if r.id in set(ids[name])]
        for name in ids
        if name != "forget"
    }
    other = {
        f"evaluate.{name}": [(row.id, _text(row)) for row in read_data(datasets, ref)]
        for name, ref in config["kept"].items()
    }
    refuse_shared(one, other)


def _text(row: DataRow) -> str:
    return f"{row.prompt} {row.response}"
