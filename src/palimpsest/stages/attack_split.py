"""Divides the rows to forget between an attacker and what he wants."""

from __future__ import annotations

from palimpsest.data.attack_split import Fact, attack_split
from palimpsest.io.sealed import write_document
from palimpsest.measuring.alternatives import DataRow, read_data
from palimpsest.pipeline.stages import AttackSplit


def split(job: AttackSplit) -> None:
    """Write ``split.json``.

    Raises:
        UserError: a part is missing or altered.
    """
    parts = job.config["parts"]
    rows = read_data(job.datasets, parts["forget"])
    in_other_words = [row for ref in parts["wordings"] for row in read_data(job.datasets, ref)]
    others = {name: read_data(job.datasets, ref) for name, ref in parts["others"].items()}
    wordings: dict[str, list[DataRow]] = {row.fact: [] for row in rows}
    for row in (*rows, *in_other_words):
        if row.fact in wordings:
            wordings[row.fact].append(row)
    facts = [fact_of(name, found) for name, found in wordings.items()]
    texts = {
        name: [(row.id, text) for row in found for text in texts_of(row)]
        for name, found in others.items()
    }
    write_document(job.out, attack_split(facts, texts))


def fact_of(name: str, wordings: list[DataRow]) -> Fact:
    """A fact in all its wordings, a row to forget first."""
    texts = dict.fromkeys(text for row in wordings for text in texts_of(row))
    keys = dict.fromkeys(key for row in wordings for key in row.key)
    return Fact(name, wordings[0].group, list(keys), list(texts))


def texts_of(row: DataRow) -> list[str]:
    """The texts that say a row: question, response, and that in other words."""
    return [text for text in (row.prompt, row.response, row.paraphrased) if text]
