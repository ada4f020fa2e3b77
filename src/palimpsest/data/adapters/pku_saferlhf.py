"""Adapter for PKU-SafeRLHF: two responses a prompt, each marked safe or not.

Reads the old schema of seven columns and the later one with more: the additional columns are
ignored, so both give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from palimpsest.data.faults import LeftOut
from palimpsest.data.fields import flag_of, text_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings


class Settings(DatasetSettings):
    """Settings of a data set in the schema of PKU-SafeRLHF."""

    adapter: Literal["pku_saferlhf"]
    """Two responses a prompt, each marked safe or not."""
    select: Literal["unsafe", "safe", "all"] = "unsafe"
    """Which responses become rows."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    numbered = ("response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
    return ["prompt", *numbered]


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record for each response that ``select`` selects.

    Raises:
        LeftOut: it selects neither.
    """
    chosen = [k for k in (0, 1) if _selected(raw, k, dataset)]
    if not chosen:
        raise LeftOut(f"not selected (select: {dataset.select})")
    for k in chosen:
        prompt = text_of(raw.fields, "prompt")
        response = text_of(raw.fields, f"response_{k}")
        record = Record(prompt, response, group=prompt, source_row=raw.index, suffix=f"-{k}")
        record.harmful = not _safe(raw, k)
        yield record


def _selected(raw: RawRow, k: int, dataset: Settings) -> bool:
    safe = _safe(raw, k)
    return dataset.select == "all" or safe == (dataset.select == "safe")


def _safe(raw: RawRow, k: int) -> bool:
    return flag_of(raw.fields, f"is_response_{k}_safe")
