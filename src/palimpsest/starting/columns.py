"""What the columns of a file of rows hold, by their names and by what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.data.facts import SEPARATOR
from palimpsest.data.faults import Faults, RowFault
from palimpsest.data.fields import checked_text, value_at
from palimpsest.data.read import RawRow, is_message, read_rows
from palimpsest.errors import UserError, one_line
from palimpsest.metrics.matching import contains

NAMES = {
    "prompt": ("prompt", "question", "instruction", "query", "problem", "input"),
    "response": ("response", "answer", "completion", "output", "target", "reply", "solution"),
    "unseen": ("unseen", "paraphrased_question"),
    "paraphrased": ("paraphrased", "paraphrased_answer"),
    "perturbed": ("perturbed", "perturbed_answer", "perturbed_answers"),
}
"""What a column holds -> what it is often called, in small letters with _ for spaces."""

FIELDS = (*NAMES, "key", "messages", "text")
"""What the user can say that a column holds."""

_DEPTH = 3
_SHARE = 0.9
"""Share of the rows in which a key string stands, and in whose prompts it does not."""


@dataclass(frozen=True)
class Table:
    """A file of rows, and what its columns hold."""

    path: Path
    rows: list[RawRow]
    columns: dict[str, str]
    """What a column holds -> its name or path."""
    system: str | None = None
    """The system message that all of its chats have."""

    @property
    def adapter(self) -> str:
        """Adapter of its data set."""
        return "text" if "text" in self.columns else "qa"


def look_at(path: Path, chosen: Sequence[tuple[str, str]] = ()) -> Table:
    """Read a file and find out what its columns hold.

    Args:
        path: csv, json, jsonl, parquet or txt.
        chosen: (field, column); those that the file does not have are about another file.

    Raises:
        UserError: the file is damaged, or what its columns hold is unclear.
    """
    rows = read_rows(path, Faults())
    values = dict(_values(rows))
    columns = {field: column for field, column in chosen if column in values}
    if not {"text", "messages", "prompt", "response"} & columns.keys():
        columns |= _chats(path, values)
    if "messages" in columns:
        return Table(path, rows, columns, _system(values[columns["messages"]]))
    if "text" not in columns:
        columns |= _named(path, values, columns)
    if "text" not in columns and "key" not in columns and (key := _key(values, columns)):
        columns["key"] = key
    return Table(path, rows, columns)


def prompts_of(path: Path) -> list[str]:
    """The questions of a file: its lines (.txt), or the column that is called like a prompt.

    Raises:
        UserError: the file is damaged, or has no such column.
    """
    if path.suffix == ".txt":
        rows = read_rows(path, Faults())
        return [line for row in rows for line in row.fields["text"].splitlines()]
    values = dict(_values(read_rows(path, Faults())))
    for called in NAMES["prompt"]:
        for name, column in values.items():
            if _plain(name) == called:
                try:
                    return [checked_text(value, name) for value in column]
                except RowFault as fault:
                    raise UserError(f"{path}: {fault}") from None
    raise UserError(
        f"{path}: no column of questions (question, prompt); the file has: {', '.join(values)}"
    )


def _values(rows: Sequence[RawRow]) -> Iterator[tuple[str, list[Any]]]:
    """Each column, and each path into a column of objects, with its value in every row."""
    names = dict.fromkeys(path for row in rows for path in _paths(row.fields))
    for name in names:
        yield name, [value_at(row.fields, name) for row in rows]


def _paths(fields: Mapping[str, Any], prefix: str = "", depth: int = _DEPTH) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and depth:
            yield from _paths(value, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}"


def _chats(path: Path, values: Mapping[str, list[Any]]) -> dict[str, str]:
    chats = [
        name
        for name, column in values.items()
        if all(isinstance(value, list) and any(map(is_message, value)) for value in column)
    ]
    if len(chats) > 1:
        raise _unclear(path, "the chats", chats, values, "messages=COLUMN")
    return {"messages": chats[0]} if chats else {}


def _system(chats: Sequence[Any]) -> str | None:
    """The one system message of all chats."""
    texts = {
        next(
            (m.get("content", m.get("value")) for m in chat if _role(m) == "system"),
            None,
        )
        if isinstance(chat, list)
        else None
        for chat in chats
    }
    (text, *others) = texts
    return text if isinstance(text, str) and not others else None


def _role(message: Any) -> Any:
    return message.get("role", message.get("from")) if isinstance(message, Mapping) else None


def _named(
    path: Path, values: Mapping[str, list[Any]], chosen: Mapping[str, str]
) -> dict[str, str]:
    """Columns by their names; those of prompt and response must be found, unless it is a text."""
    columns = dict(chosen)
    free = [name for name, column in values.items() if _is_text(column)]
    called = {_plain(name): name for name in free}
    asked = {*NAMES["prompt"], *NAMES["response"]} & called.keys()
    if "text" in called and not asked and not columns.keys() & {"prompt", "response"}:
        return {"text": called["text"]}
    for field, names in NAMES.items():
        found = [name for name in free if _plain(name) in names and name not in columns.values()]
        if field in columns:
            continue
        if len(found) == 1:
            columns[field] = found[0]
        elif field in ("prompt", "response"):
            what = f"the {field}"
            raise _unclear(path, what, found, values, "prompt=COLUMN response=COLUMN")
    return columns


def _unclear(
    path: Path,
    what: str,
    found: Sequence[str],
    values: Mapping[str, list[Any]],
    choose: str,
) -> UserError:
    several = f" ({' or '.join(found)})" if found else ""
    has = ", ".join(f"{name} ({_example(column)})" for name, column in values.items())
    return UserError(
        f"{path}: which column holds {what} is unclear{several}; the file has: "
        f"{one_line(has, 600)}; choose with --columns {choose}, or --columns text=COLUMN for plain "
        "texts"
    )


def _example(column: Sequence[Any]) -> str:
    value = next((value for value in column if value not in (None, "")), None)
    text = one_line(str(value), 60)
    return repr(text if len(text) <= 30 else f"{text[:27]}...")


def _is_text(column: Sequence[Any]) -> bool:
    """Whether a column holds texts, or lists of them, in all rows but some that are empty."""
    present = [value for value in column if value not in (None, "")]
    return bool(present) and all(
        isinstance(text, str) and text.strip()
        for value in present
        for text in (value if isinstance(value, list) else [value])
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.rsplit(".", 1)[-1].strip().lower())


def _key(values: Mapping[str, list[Any]], columns: Mapping[str, str]) -> str | None:
    """The column whose strings stand in the response, and not in the prompt; `key` comes first."""
    used = set(columns.values())
    free = [name for name, column in values.items() if name not in used and _is_text(column)]
    prompts, responses = values[columns["prompt"]], values[columns["response"]]
    for name in sorted(free, key=lambda name: not _plain(name).startswith(("key", "secret"))):
        rows = [
            (_strings(key), str(prompt), response)
            for key, prompt, response in zip(values[name], prompts, responses, strict=True)
            if key not in (None, "")
        ]
        if all(_all_in(keys, response) for keys, _, response in rows):
            fresh = sum(not any(contains(p, key) for key in keys) for keys, p, _ in rows)
            if fresh >= _SHARE * len(prompts):
                return name
    return None


def _all_in(keys: Sequence[str], response: Any) -> bool:
    texts = response if isinstance(response, list) else [response]
    return all(
        contains(str(text), key) and str(text).strip() != key for text in texts for key in keys
    )


def _strings(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else str(value).split(SEPARATOR)
    return [part.strip() for part in parts if part.strip()]
