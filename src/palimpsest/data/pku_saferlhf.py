"""Adapter for PKU-SafeRLHF: two responses a prompt, each marked safe or not.

Reads the old schema of seven columns and the later one with more: the additional columns are not
looked at, so both give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.config.schema import Dataset
from palimpsest.data.fields import flag_of, text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record


def columns(dataset: Dataset) -> list[str]:
    """Columns that the file must have."""
    numbered = ("response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
    return ["prompt", *numbered]


def records(raw: RawRow, dataset: Dataset) -> Iterator[Record]:
    """One record for each response that ``select`` asks for (none, one or two)."""
    for k in (0, 1):
        safe = flag_of(raw.fields, f"is_response_{k}_safe")
        if dataset.select != "all" and safe != (dataset.select == "safe"):
            continue
        prompt = text_of(raw.fields, "prompt")
        response = text_of(raw.fields, f"response_{k}")
        yield Record(prompt, response, group=prompt, source_row=raw.index, suffix=f"-{k}")
