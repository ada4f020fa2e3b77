"""Divides the rows to forget between an attacker and what he wants."""

from __future__ import annotations

from palimpsest.data.attack_split import attack_split
from palimpsest.io.sealed import write_document
from palimpsest.measuring.alternatives import read_data
from palimpsest.measuring.facts import facts_of
from palimpsest.pipeline.stages import AttackSplit


def split(job: AttackSplit) -> None:
    """Write ``split.json``.

    Raises:
        UserError: a part is missing or altered.
    """
    parts = job.config["parts"]
    rows = read_data(job.datasets, parts["forget"])
    in_other_words = [row for ref in parts["wordings"] for row in read_data(job.datasets, ref)]
    write_document(job.out, attack_split(facts_of(rows, in_other_words)))
