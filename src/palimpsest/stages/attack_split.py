"""Divides the rows to forget between an attacker and what he wants."""

from __future__ import annotations

from palimpsest.data.attack_split import Fact, attack_split
from palimpsest.io.sealed import write_document
from palimpsest.measuring.alternatives import DataRow, read_data
from palimpsest.pipeline.stages import AttackSplit


def split(job: AttackSplit) -> None:
    """Write ``split.json``.

    Raises:
        UserError: a part is missing or altered, or too many rows belong together.
    """
    parts = job.config["parts"]
    rows = read_data(job.datasets, parts["forget"])
    in_other_words = [row for ref in parts["wordings"] for row in read_data(job.datasets, ref)]
    others = {name: read_data(job.datasets, ref) for name, ref in parts["others"].items()}
    facts = [_fact(row, [row, *(o for o in in_other_words if o.fact == row.id)]) for row in rows]
    texts = {
        name: [(row.id, text) for row in found for text in _texts(row)]
        for name, found in others.items()
    }
    write_document(job.out, attack_split(facts, texts))


def _fact(row: DataRow, wordings: list[DataRow]) -> Fact:
    texts = dict.fromkeys(text for wording in wordings for text in _texts(wording))
    return Fact(row.id, row.group, row.key, list(texts))


def _texts(row: DataRow) -> list[str]:
    return [text for text in (row.prompt, row.response, row.paraphrased) if text]
