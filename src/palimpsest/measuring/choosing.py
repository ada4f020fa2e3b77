"""The rows that choose settings, measured with one model: as many columns as a criterion reads.

The first two parts are answered, of `general` the tokens count. Every value is that of the same
column of rows.parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from palimpsest.data.tokens import load_tokenizer as load_taught
from palimpsest.engine.body import Body
from palimpsest.engine.greedy import Prompts, answer
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.measuring.alternatives import DataRow, read_data
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.limit import longest_answer
from palimpsest.measuring.rows import read_parts, with_right_responses
from palimpsest.metrics.answers import Answers
from palimpsest.metrics.measures.answers import DEGENERATE, RECALL
from palimpsest.metrics.measures.teacher_forced import ACCURACY
from palimpsest.metrics.teacher_forced import Reading, teacher_forced
from palimpsest.model.base import load_tokenizer

READ = "general"
"""The part whose tokens count; the others are answered."""


@dataclass(frozen=True)
class ChoosingRows:
    """The rows that choose, ready to be measured with any model of a subject."""

    rows: Mapping[str, Sequence[Row]]
    """Part -> token rows."""
    data: Mapping[str, DataRow]
    """Part and id, joined by a tab -> row of the data set."""
    tokenizer: Any
    taught: Any
    limit: int
    config: Mapping[str, Any]
    """A slice with ``generation`` and ``recall``."""
    batch_tokens: int
    prompts: Prompts
    """What the models that are measured have in common."""

    def measured(self, network: nn.Module, scale: float, label: str) -> list[dict[str, Any]]:
        """A line for each row, columns `palimpsest.io.schemas.CHOOSING`."""
        return [*self._answered(network, scale, label), *self._read(network, scale, label)]

    def _answered(self, network: nn.Module, scale: float, label: str) -> list[dict[str, Any]]:
        asked = {part: rows for part, rows in self.rows.items() if part != READ}
        together = self.config["generation"]["batch_rows"]
        every = [row for rows in asked.values() for row in rows]
        progress = Progress(f"{label} answers", len(every))
        found = iter(
            answer(
                network, self.tokenizer, every, self.limit, together, progress.update, self.prompts
            )
        )
        lines = []
        for part, rows in asked.items():
            answered = [next(found) for _ in rows]
            data = [self.data[_key(part, row.id)] for row in rows]
            answers = Answers(
                [one.text for one in answered],
                [row.response for row in data],
                [row.prompt for row in data],
                [row.key for row in data],
                {},
                self.config["recall"],
                {"stopped": [one.stopped for one in answered]},
            )
            columns = [_numbers(measure.column.each(answers)) for measure in (RECALL, DEGENERATE)]  # type: ignore[union-attr]
            for row, recall, degenerate in zip(data, *columns, strict=True):
                lines.append(_line(scale, part, row, recall=recall, degenerate=degenerate))
        return lines

    def _read(self, network: nn.Module, scale: float, label: str) -> list[dict[str, Any]]:
        rows = self.rows.get(READ, ())
        if not rows:
            return []
        ends = self.taught.ends.stops
        evaluated = with_right_responses({READ: rows})
        table = likelihood(Body(network), evaluated, self.batch_tokens, ends, label)
        ids = [row.id for row in rows]
        data = [self.data[_key(READ, name)] for name in ids]
        if not np.isfinite(table["logprob"].to_numpy()).all():
            # A scale at which the model has no numbers is a result: it keeps nothing.
            return [_line(scale, READ, row, accuracy=0.0) for row in data]
        reading = Reading(teacher_forced(table, ids, READ), [], self.config["recall"])
        values = _numbers(ACCURACY.column.each(reading))  # type: ignore[union-attr]
        return [
            _line(scale, READ, row, accuracy=value) for row, value in zip(data, values, strict=True)
        ]


def choosing_rows(
    config: Mapping[str, Any],
    choose: Mapping[str, Sequence[str]],
    base: Path,
    tokens: Path,
    datasets: Path,
    batch_tokens: int,
    label: str,
    first: int = 0,
) -> ChoosingRows:
    """Read the rows that choose.

    Args:
        config: a slice with ``parts``, ``generation``, ``recall`` and ``trust_remote_code``.
        choose: part -> ids, of ``split.json``.
        base: ``resources/models/<base>``.
        tokens: ``resources/tokens/<base>``.
        datasets: ``resources/datasets``.
        batch_tokens: tokens of one teacher-forced batch.
        label: name in progress lines.
        first: the lowest block in which the models that will be measured differ.

    Raises:
        UserError: a file is missing or altered, or lacks a row that chooses.
    """
    parts = config["parts"]
    rows: dict[str, list[Row]] = {}
    data: dict[str, DataRow] = {}
    for part, found in read_parts(parts, tokens).items():
        wanted = set(choose[part])
        rows[part] = [row for row in found if row.id in wanted]
        data |= {_key(part, row.id): row for row in read_data(datasets, parts[part])}
        if lost := wanted - {row.id for row in rows[part]}:
            raise UserError(f"{parts[part]} has no row '{min(lost)}', which chooses")
    taught = load_taught(base)
    asked = {part: found for part, found in rows.items() if part != READ}
    limit = longest_answer(config["generation"]["max_new_tokens"], asked, taught.context, label)
    tokenizer = load_tokenizer(base, config["trust_remote_code"])
    return ChoosingRows(rows, data, tokenizer, taught, limit, config, batch_tokens, Prompts(first))


def _key(part: str, name: str) -> str:
    return f"{part}\t{name}"


def _numbers(values: Any) -> list[float | None]:
    numbers = [None if value is None else float(value) for value in values]
    return [None if one is None or one != one else one for one in numbers]


def _line(scale: float, part: str, row: DataRow, **values: float | None) -> dict[str, Any]:
    empty = dict.fromkeys(("recall", "degenerate", "accuracy"))
    return {"scale": scale, "part": part, "id": row.id, "group": row.group, **empty, **values}
