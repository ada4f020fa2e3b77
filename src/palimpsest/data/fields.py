"""Typed access to the fields of a raw row; a fault names the column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from palimpsest.data.faults import RowFault
from palimpsest.metrics.normalise import normalise


def text_of(fields: Mapping[str, Any], column: str) -> str:
    """A text that is not empty, without white space around it.

    Raises:
        RowFault: missing, null, not a text, or nothing but white space.
    """
    return checked_text(_value(fields, column), column)


def checked_text(value: Any, column: str) -> str:
    """`value` as a text that shows something, without white space around it (else `RowFault`)."""
    if not isinstance(value, str):
        raise RowFault(f"column '{column}': a text is needed, found {value!r:.60}")
    if not normalise(text := value.strip()):
        raise RowFault(f"column '{column}' is empty")
    return text


def texts_of(fields: Mapping[str, Any], column: str) -> list[str]:
    """A list of texts that are not empty; a single text is a list of one (else `RowFault`)."""
    value = _value(fields, column)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise RowFault(f"column '{column}' is an empty list")
    return [checked_text(item, column) for item in values]


def flag_of(fields: Mapping[str, Any], column: str) -> bool:
    """True or false; csv files, which have no types, may write them as words (else `RowFault`)."""
    value = _value(fields, column)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise RowFault(f"column '{column}': true or false is needed, found {value!r:.60}")
    return value


def value_at(fields: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or at a dotted path: ``messages.0.content``; None: there is none."""
    if column in fields:
        return fields[column]
    value: Any = fields
    for step in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", step):
            place = int(step)
            value = value[place] if -len(value) <= place < len(value) else None
        else:
            return None
    return value


def _value(fields: Mapping[str, Any], column: str) -> Any:
    value = value_at(fields, column)
    if value is None and column not in fields:
        raise RowFault(f"column '{column}' is missing")
    if value is None:
        raise RowFault(f"column '{column}' is null")
    return value
