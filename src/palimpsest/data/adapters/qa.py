"""Adapter for any file of questions and answers; ``columns`` names its columns.

Benchmarks often hold wrong answers, rewordings or choices beside the answer. Columns that
``columns`` names for them are read as the fields of a sidecar file are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from palimpsest.data.facts import Field, add_facts, facts_of
from palimpsest.data.faults import RowFault
from palimpsest.data.fields import text_of, texts_of
from palimpsest.data.read import RawRow
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings


class Settings(DatasetSettings):
    """Settings of a data set of questions and answers."""

    adapter: Literal["qa"]
    """A question and its answer (or several) a row."""
    columns: dict[Field, str] = {}
    """What a column holds -> its name. Only prompt and response are read without an entry here.
    `key`: a list, or a text with | between several key strings; each stands in the response."""


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(_names(dataset).values())


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record a row, or one for each response of a list, with one prompt or as many prompts."""
    names = _names(dataset)
    prompt, response = names.pop("prompt"), names.pop("response")
    prompts, responses = texts_of(raw.fields, prompt), texts_of(raw.fields, response)
    if len(prompts) == 1:
        prompts *= len(responses)
    if len(prompts) != len(responses):
        raise RowFault(
            f"columns '{prompt}' and '{response}' hold {len(prompts)} and {len(responses)} texts"
        )
    group = text_of(raw.fields, names.pop("group")) if "group" in names else None
    facts = facts_of({field: raw.fields.get(column) for field, column in names.items()})
    several = isinstance(raw.fields[response], list)
    for k, (question, answer) in enumerate(zip(prompts, responses, strict=True)):
        record = Record(
            question,
            answer,
            group=group or question,
            source_row=raw.index,
            suffix=f"-{k}" if several else "",
        )
        add_facts(record, facts)
        yield record


def _names(dataset: Settings) -> dict[str, str]:
    return {"prompt": "prompt", "response": "response"} | dict(dataset.columns)
