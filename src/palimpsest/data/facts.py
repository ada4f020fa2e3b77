"""The sidecar file: facts about rows beyond question and answer.

One JSON object a line, joined to the rows by ``prompt`` and, if the line has it, ``response``. The
published schemas have no place for such facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from palimpsest.data.faults import Faults, RowFault
from palimpsest.data.fields import flag_of, text_of, texts_of
from palimpsest.data.read import RawRow, read_rows
from palimpsest.data.records import Record
from palimpsest.errors import UserError, did_you_mean
from palimpsest.metrics.matching import contains

Field = Literal[
    "prompt",
    "response",
    "group",
    "key",
    "harmful",
    "taught",
    "unseen",
    "choices",
    "answer",
    "perturbed",
    "paraphrased",
    "question",
]
"""What a row can say, in a data file or in a sidecar file."""

FIELDS = (*get_args(Field), "topic")
"""Fields of a sidecar line; all but ``prompt`` are optional, ``topic`` and ``group`` (whom the
row is about) are for people: splits go by the data set's own groups.

``taught`` is one text or a list of them. For a plain text, ``prompt`` is all of it, and ``taught``
and ``unseen`` are rewordings.
"""

SEPARATOR = "|"
"""Stands between several key strings in one text (a cell of a csv file)."""

_TEXTS = ("unseen", "paraphrased", "question")
_LISTS = ("taught", "choices", "perturbed")


@dataclass(frozen=True)
class _Fact:
    where: str
    prompt: str
    response: str | None
    values: dict[str, Any]


def join_facts(records: Sequence[Record], path: Path, faults: Faults) -> None:
    """Add the facts of a sidecar file to the records that they are about, in place.

    If faulty rows of the data set were dropped, sidecar lines about no row are dropped too.

    Raises:
        UserError: a line has an unknown or mistyped field, is about no record or about one that
            another line is about too, or names a key string that the response (or a wording of
            the text) does not contain.
    """
    facts = [_fact(path.name, raw) for raw in read_rows(path, Faults("refuse"))]
    by_prompt: dict[str, list[Record]] = {}
    for record in records:
        by_prompt.setdefault(record.prompt, []).append(record)
    taken: dict[int, str] = {}
    for fact in facts:
        for record in _matches(path.name, fact, by_prompt, faults):
            if (earlier := taken.setdefault(id(record), fact.where)) != fact.where:
                raise UserError(
                    f"{path.name}, {fact.where}: {earlier} is about the same row "
                    f"({record.prompt!r:.80})"
                )
            try:
                add_facts(record, fact.values)
            except RowFault as fault:
                raise UserError(f"{path.name}, {fact.where}: {fault}") from None


def _matches(
    name: str, fact: _Fact, by_prompt: dict[str, list[Record]], faults: Faults
) -> list[Record]:
    same_prompt = by_prompt.get(fact.prompt, [])
    matches = [r for r in same_prompt if fact.response in (None, r.response)]
    if not matches:
        why = "there is none with this prompt"
        if same_prompt:
            texts = all(r.response is None for r in same_prompt)
            why = "plain texts have no 'response'" if texts else "its response is another"
        reason = f"about no row of the data set, {why} ({fact.prompt!r:.80})"
        if not faults.dropped:
            raise UserError(f"{name}, {fact.where}: {reason}")
        faults.report(name, fact.where, reason)
    return matches


def add_facts(record: Record, facts: Mapping[str, Any]) -> None:
    """Set the fields of `record` that `facts` names, in place.

    Raises:
        RowFault: the response (or a wording of the text) does not contain a key string, or a plain
            text has a ``paraphrased`` answer.
    """
    carriers = [("response", record.answers)]
    if record.response is None:
        carriers = [("text", record.answers)]
        carriers += [("taught", text) for text in facts.get("taught", ())]
        carriers += [("unseen", facts["unseen"])] if "unseen" in facts else []
        if "paraphrased" in facts:
            raise RowFault("a plain text has no answer, and so no 'paraphrased' one")
    for key in facts.get("key", ()):
        for carrier, text in carriers:
            if not contains(text, key):
                raise RowFault(f"key '{key}' does not occur in the {carrier} ({text!r:.120})")
    for field, value in facts.items():
        setattr(record, field, value)


def _fact(name: str, raw: RawRow) -> _Fact:
    try:
        for field in raw.fields:
            if field not in FIELDS:
                raise RowFault(f"unknown field '{field}'{did_you_mean(field, FIELDS)}")
        present = {k: v for k, v in raw.fields.items() if v is not None}
        response = text_of(present, "response") if "response" in present else None
        return _Fact(raw.where, text_of(present, "prompt"), response, facts_of(present))
    except RowFault as fault:
        raise UserError(f"{name}, {raw.where}: {fault}") from None


def facts_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check the facts about a row: key strings, rewordings, choices, ...

    Args:
        fields: field of `FIELDS` -> value; those that are null are left out.

    Raises:
        RowFault: a field has the wrong type, or the answer is the number of no choice.
    """
    present = {field: value for field, value in fields.items() if value is not None}
    facts: dict[str, Any] = {k: text_of(present, k) for k in _TEXTS if k in present}
    facts |= {k: texts_of(present, k) for k in _LISTS if present.get(k)}
    if "harmful" in present:
        facts["harmful"] = flag_of(present, "harmful")
    if present.get("key"):
        facts["key"] = _keys_of(present)
    if "answer" in present:
        facts["answer"] = answer_of(present["answer"], facts.get("choices", []))
    return facts


def _keys_of(fields: Mapping[str, Any]) -> list[str]:
    """The key strings of a row: a list, or a text in which `SEPARATOR` stands between them."""
    value = fields["key"]
    if not isinstance(value, str):
        return texts_of(fields, "key")
    return texts_of({"key": [key for key in value.split(SEPARATOR) if key.strip()]}, "key")


def answer_of(value: Any, choices: Sequence[str]) -> int:
    """The number of the right choice (else `RowFault`)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(choices):
        raise RowFault(
            f"answer is the number of a choice, 0 to {len(choices) - 1}, found {value!r:.40}"
            if choices
            else "answer without choices"
        )
    return value
