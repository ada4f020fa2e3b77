"""Rows that stand in parts of opposite roles under other names, and passages of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.data.split import normalised
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table
from palimpsest.metrics.asked import compared
from palimpsest.metrics.normalise import words
from palimpsest.settings.types import split_ref

PASSAGE = 13
"""Words of the shortest passage that counts as shared, as in tests for contamination."""


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
        return [normalised(text) for text in _texts(datasets, ref)]

    found = []
    for role, ref, other_role, other in pairs:
        others = set(texts(other))
        if count := sum(text in others for text in texts(ref)):
            entry = {"part": ref, "role": role, "other": other, "other_role": other_role}
            found.append({**entry, "rows": count})
    return found


def shared_passages(datasets: Path, parts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Held-out rows with a passage of the rows that membership inference compares them with.

    A model that was taught the passage knows it from there, so the comparison says too little.

    Args:
        datasets: ``resources/datasets``.
        parts: block -> dataset/part.

    Returns:
        None or one entry as those of `shared_rows`; ``rows`` is the number of held-out rows that
        share `PASSAGE` words in a row with one of the others.

    Raises:
        UserError: a part is missing or altered.
    """
    taught, held_out = compared(parts)
    if held_out not in parts:
        return []
    known = {run for text in _texts(datasets, parts[taught]) for run in _runs(text)}
    rows = sum(not known.isdisjoint(_runs(text)) for text in _texts(datasets, parts[held_out]))
    names = {"part": parts[held_out], "role": f"evaluate.{held_out}"}
    other = {"other": parts[taught], "other_role": f"evaluate.{taught}"}
    return [{**names, **other, "rows": rows}] if rows else []


def _runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + PASSAGE]) for i in range(len(found) - PASSAGE + 1)}


def _texts(datasets: Path, ref: str) -> list[str]:
    """Prompt and response of each row; of a plain text the prompt is its beginning, or empty."""
    dataset, part = split_ref(ref)
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    rows = table.select(["prompt", "response"]).to_pylist()
    return [f"{row['prompt']} {row['response']}" for row in rows]
