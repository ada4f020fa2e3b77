"""Rows that stand in parts of opposite roles under other names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.data.split import normalised
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table
from palimpsest.settings.types import split_ref


def shared_rows(datasets: Path, pairs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Parts in opposite roles with equal rows: the same prompt and response.

    Case, white space and Unicode's ways of writing a character make no difference.

    Args:
        datasets: ``resources/datasets``.
        pairs: role, part, other role, other part.

    Returns:
        One entry for each pair with such rows: ``part``, ``role``, ``other``, ``other_role``, and
        ``rows``, the number of the part's rows that the other one has.

    Raises:
        UserError: a part is missing or altered.
    """

    @cache
    def texts(ref: str) -> list[str]:
        dataset, part = split_ref(ref)
        table, _ = read_table(verified(datasets / dataset, table_of(part)))
        rows = table.select(["prompt", "response"]).to_pylist()
        # Of a plain text the prompt is its beginning, or empty.
        return [normalised(f"{row['prompt']} {row['response']}") for row in rows]

    found = []
    for role, ref, other_role, other in pairs:
        others = set(texts(other))
        if count := sum(text in others for text in texts(ref)):
            entry = {"part": ref, "role": role, "other": other, "other_role": other_role}
            found.append({**entry, "rows": count})
    return found
