"""Rows that measuring makes itself: wrong answers to a question, and questions in a wrapper.

Both are other words around rows of the data set, tokenized as the stage ``tokenize`` does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from palimpsest.config.schema import Template
from palimpsest.data.tokens import BaseTokenizer, load_tokenizer, tokenize, tokenize_text
from palimpsest.engine.rows import Row
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.io.tables import read_table
from palimpsest.metrics.asked import CONTRASTED, asked
from palimpsest.stages.common import dataset_and_part


@dataclass(frozen=True)
class Wording:
    """How prompts and responses of a base model are written and tokenized."""

    tokenizer: BaseTokenizer
    template: Template

    def rows(
        self, lines: Sequence[Line], prompts: Sequence[str], responses: Sequence[str], what: str
    ) -> list[Row]:
        """One row per line, with another prompt or response; all lists are aligned."""
        if not lines:
            return []
        ids = [line.id for line in lines]
        table = pa.table({"id": ids, "prompt": prompts, "response": responses})
        where = f"{lines[0].ref}, {what}"
        if lines[0].is_text:
            found, _ = tokenize_text(table, self.tokenizer, where)
        else:
            found, _ = tokenize(table, self.tokenizer, self.template, where)
        return [
            Row(row["id"], torch.tensor(row["input_ids"]), row["prompt_length"])
            for row in found.to_pylist()
        ]


@dataclass(frozen=True)
class Line:
    """A row of a data set."""

    ref: str
    is_text: bool
    id: str
    prompt: str
    response: str
    wrong: Sequence[str]


def wording(base: Path, template: Mapping[str, Any]) -> Wording:
    """The wording of the model in `base`."""
    return Wording(load_tokenizer(base), Template(**template))


def wrong_answers(
    parts: Mapping[str, str], count: int | None, datasets: Path, words: Wording
) -> dict[str, list[tuple[int, Row]]]:
    """Block -> (place among the row's wrong answers, its prompt with that answer).

    Args:
        parts: block -> dataset/part.
        count: rows of each block (None: all).
        datasets: ``resources/datasets``.
        words: how rows are written.
    """
    found = {}
    for block in (name for name in CONTRASTED if name in parts):
        lines = _asked([x for x in _lines(datasets, parts[block]) if x.wrong], count)
        each = [(line, place) for line in lines for place in range(len(line.wrong))]
        rows = words.rows(
            [line for line, _ in each],
            [line.prompt for line, _ in each],
            [line.wrong[place] for line, place in each],
            "wrong answers",
        )
        found[block] = [(place, row) for (_, place), row in zip(each, rows, strict=True)]
    return found


def wrapped(ref: str, wrapper: str, count: int | None, datasets: Path, words: Wording) -> list[Row]:
    """The asked rows of a part, their prompts in place of ``{prompt}`` in `wrapper`."""
    lines = _asked(_lines(datasets, ref), count)
    prompts = [wrapper.replace("{prompt}", line.prompt) for line in lines]
    return words.rows(lines, prompts, [line.response for line in lines], "wrapped")


def _asked(lines: Sequence[Line], count: int | None) -> list[Line]:
    chosen = set(asked([line.id for line in lines], count))
    return [line for line in lines if line.id in chosen]


def _lines(datasets: Path, ref: str) -> list[Line]:
    dataset, part = dataset_and_part(ref)
    is_text = read_manifest(datasets / dataset).get("format") == "text"
    table, _ = read_table(verified(datasets / dataset, f"{part}.parquet"))
    return [
        Line(ref, is_text, row["id"], row["prompt"], row["response"], row.get("perturbed") or [])
        for row in table.to_pylist()
    ]
