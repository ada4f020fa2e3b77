"""Adapter for any file of questions and answers; ``columns`` names its columns.

Benchmarks often hold wrong answers, rewordings or choices beside the answer. Columns that
``columns`` names for them are read as the fields of a sidecar file are. A name may be a path,
``messages.0.content``; a column of whole chats (``messages``) holds the question and the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import model_validator

from palimpsest.data.facts import Field, add_facts, facts_of
from palimpsest.data.faults import RowFault
from palimpsest.data.fields import checked_text, text_of, texts_of, value_at
from palimpsest.data.read import RawRow, is_message
from palimpsest.data.records import Record
from palimpsest.settings.dataset import DatasetSettings

_WHO = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""What data sets call the two sides of a chat."""


class Settings(DatasetSettings):
    """Settings of a data set of questions and answers."""

    adapter: Literal["qa"]
    """A question and its answer (or several) a row."""
    columns: dict[Literal[Field, "messages"], str] = {}
    """What a column holds -> its name or path. Only prompt and response need no entry here;
    messages: chats of a question and its answer, in place of both; key: a list, or a text with |
    between several key strings, each of which stands in the response."""

    @model_validator(mode="after")
    def _messages_alone(self) -> Self:
        if "messages" in self.columns and {"prompt", "response"} & self.columns.keys():
            raise ValueError("columns: messages holds prompt and response; leave those two out")
        return self


def columns(dataset: Settings) -> list[str]:
    """Columns that the file must have."""
    return list(_names(dataset).values())


def records(raw: RawRow, dataset: Settings) -> Iterator[Record]:
    """One record a row, or one for each response of a list, with one prompt or as many prompts."""
    names = _names(dataset)
    fields = dict(raw.fields)
    if chat := names.pop("messages", None):
        names |= {"prompt": "question in it", "response": "answer in it"}
        fields |= dict(zip((names["prompt"], names["response"]), pair_of(raw, chat), strict=True))
    prompt, response = names.pop("prompt"), names.pop("response")
    prompts, responses = texts_of(fields, prompt), texts_of(fields, response)
    if len(prompts) == 1:
        prompts *= len(responses)
    if len(prompts) != len(responses):
        raise RowFault(
            f"columns '{prompt}' and '{response}' hold {len(prompts)} and {len(responses)} texts"
        )
    group = text_of(fields, names.pop("group")) if "group" in names else None
    facts = facts_of({field: value_at(fields, column) for field, column in names.items()})
    several = isinstance(value_at(fields, response), list)
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


def pair_of(raw: RawRow, column: str) -> tuple[str, str]:
    """Question and answer of a chat; a system message before them is left out.

    Raises:
        RowFault: it is no list of messages, or holds another number of questions and answers.
    """
    chat = value_at(raw.fields, column)
    if not (isinstance(chat, list) and chat and all(map(is_message, chat))):
        raise RowFault(f"column '{column}': a list of messages is needed, found {chat!r:.60}")
    said = [(m["role"], m["content"]) if "role" in m else (m["from"], m["value"]) for m in chat]
    turns = [(_WHO.get(str(who), "?"), text) for who, text in said if who != "system"]
    roles = [who for who, _ in turns]
    if roles != ["user", "assistant"]:
        asked, answered = roles.count("user"), roles.count("assistant")
        what = (
            "it has no answer of the assistant"
            if asked and not answered
            else f"it has {asked} questions and {answered} answers"
            if asked + answered > 2
            else "this is none"
        )
        raise RowFault(
            f"column '{column}': a chat of one question and one answer is needed, {what} (its "
            f"roles: {', '.join(str(who) for who, _ in said):.80}); paths choose messages: "
            f"columns: {{prompt: {column}.0.content, response: {column}.1.content}}"
        )
    question, answer = (checked_text(_spoken(text, column), column) for _, text in turns)
    return question, answer


def _spoken(content: Any, column: str) -> Any:
    """The text of a message; its parts of text (``{"type": "text", "text": ...}``) joined."""
    if not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        return content
    kinds = [str(part.get("type")) for part in content]
    if other := next((kind for kind in kinds if kind != "text"), None):
        raise RowFault(
            f"column '{column}': a message holds a part of the type {other!r:.40}; only texts can "
            "be read: leave such rows out"
        )
    return "\n".join(checked_text(part.get("text"), column) for part in content)


def _names(dataset: Settings) -> dict[str, str]:
    names = {str(field): column for field, column in dataset.columns.items()}
    return names if "messages" in names else {"prompt": "prompt", "response": "response"} | names
