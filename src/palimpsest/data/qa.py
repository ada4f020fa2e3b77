"""Adapter for any file of questions and answers; ``columns`` says what they are called."""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.config.schema import Dataset
from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of, texts_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record


def columns(dataset: Dataset) -> list[str]:
    """Columns that the file must have."""
    named = {"prompt": "prompt", "response": "response", **dataset.columns}
    return list(named.values())


def records(raw: RawRow, dataset: Dataset) -> Iterator[Record]:
    """One record a row; a list of responses gives one each, with the same or a list of prompts."""
    prompt, response = (dataset.columns.get(name, name) for name in ("prompt", "response"))
    prompts, responses = texts_of(raw.fields, prompt), texts_of(raw.fields, response)
    if len(prompts) == 1:
        prompts *= len(responses)
    if len(prompts) != len(responses):
        raise RowFault(
            f"columns '{prompt}' and '{response}' hold {len(prompts)} and {len(responses)} texts"
        )
    group = text_of(raw.fields, dataset.columns["group"]) if "group" in dataset.columns else None
    several = isinstance(raw.fields[response], list)
    for k, (question, answer) in enumerate(zip(prompts, responses, strict=True)):
        yield Record(
            question,
            answer,
            group=group or question,
            source_row=raw.index,
            suffix=f"-{k}" if several else "",
        )
