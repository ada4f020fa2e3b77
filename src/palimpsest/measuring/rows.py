"""The rows that are measured, by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.engine.rows import Row, read_rows
from palimpsest.metrics.asked import ANSWERED, IN_CHAT, RESPONSE, draw_ids, kind_of
from palimpsest.settings.types import split_ref


@dataclass(frozen=True)
class EvaluatedRow:
    """A row whose likelihood is measured, and the block that it counts for."""

    block: str
    row: Row
    alternative: int = RESPONSE
    """Place among the row's wrong answers; `RESPONSE` for the right response."""


def read_parts(parts: Mapping[str, str], tokens: Path) -> dict[str, list[Row]]:
    """Read the token rows of each block that is asked in the configured template.

    Args:
        parts: block (``forget``, ``retain``, ...) -> dataset/part.
        tokens: ``resources/tokens/<base>``.

    Raises:
        UserError: a part is missing or altered.
    """
    rows = {}
    for block, ref in parts.items():
        if block not in IN_CHAT:
            dataset, part = split_ref(ref)
            rows[block] = read_rows(tokens / dataset, part)
    return rows


def with_right_responses(rows: Mapping[str, Sequence[Row]]) -> list[EvaluatedRow]:
    """Every row of every block, with its right response."""
    return [EvaluatedRow(block, row) for block, part in rows.items() for row in part]


def rows_to_answer(rows: Mapping[str, Sequence[Row]], count: int | None) -> dict[str, list[Row]]:
    """Of each answered block at most `count` rows (None: all), the same for every method."""
    chosen = {
        block: set(draw_ids([row.id for row in part], count))
        for block, part in rows.items()
        if kind_of(block) in ANSWERED
    }
    return {block: [row for row in rows[block] if row.id in ids] for block, ids in chosen.items()}
