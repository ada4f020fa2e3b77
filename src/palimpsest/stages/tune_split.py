"""Names the rows that choose settings."""

from __future__ import annotations

from palimpsest.data.choosing import choosing_facts, drawn, one_wording, split_document
from palimpsest.io.sealed import write_document
from palimpsest.measuring.alternatives import read_data
from palimpsest.measuring.facts import facts_of
from palimpsest.metrics.choose import refuse_few_rows
from palimpsest.pipeline.stages import TuneSplit


def split(job: TuneSplit) -> None:
    """Write ``split.json``.

    Raises:
        UserError: a part is missing or altered, there are too few facts, or too few rows for a
            condition of the plan.
    """
    config, untracked = job.config, job.untracked
    choose = {name: read_data(job.datasets, ref) for name, ref in config["choose"].items()}
    others = [row for ref in config["wordings"] for row in read_data(job.datasets, ref)]
    rows = config["rows"]
    facts = facts_of(choose["forget"], others)
    chosen = choosing_facts(facts, rows["forget"], rows["forget_most"])
    ids = {"forget": one_wording([(row.id, row.fact) for row in choose["forget"]], chosen)}
    for name, found in choose.items():
        if name != "forget":
            ids[name] = drawn([row.id for row in found], rows[name], name)
    refuse_few_rows(untracked["criterion"], ids, untracked["confidence"])
    write_document(job.out, split_document(ids, chosen, len(facts)))
