"""A base's own chat template, as frames around a prompt and a response."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from palimpsest.data.json_files import read_object
from palimpsest.errors import UserError, one_line
from palimpsest.settings.template import Template

FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a chat template may stand, in the order in which they count."""

_TODAY = datetime.date(2024, 7, 26)
"""The date in templates that write one: Llama 3's own default. Results must not depend on it."""

_QUESTION, _ANSWER = "\ue002question\ue003", "\ue002answer\ue003"


@dataclass(frozen=True)
class Chat:
    """A chat of one question and its answer: the texts around both."""

    prompt: tuple[str, str]
    """Text before the question; text after it, up to the answer."""
    response: tuple[str, str]
    """Text before the answer; text after it, which ends the model's turn."""


def chat_template(base: Path) -> str | None:
    """The chat template in a model folder; None if it has none.

    Raises:
        UserError: a file with it cannot be read.
    """
    for name in FILES:
        path = base / name
        if not path.is_file():
            continue
        if path.suffix == ".jinja":
            return path.read_text(encoding="utf-8")
        found = read_object(path).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in found}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def chat_of(base: Path, system: str | None) -> Chat:
    """How the base's own chat template writes a question and its answer.

    Args:
        base: a model folder.
        system: text of the system message; None: none, so that the template may add its own.

    Raises:
        UserError: the folder has no chat template, or one that fails, refuses a system message, or
            does not write question and answer as they are.
    """
    source = chat_template(base)
    if source is None:
        raise UserError(
            f"{base.name} has no chat template ({', '.join(FILES)}), and the configuration has "
            f"template: chat; write bases.{base.name}.template.prompt and .response"
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": "user", "content": _QUESTION}]
    words = _special_words(base)
    asked = _rendered(base, source, messages, words, add_generation_prompt=True)
    messages += [{"role": "assistant", "content": _ANSWER}]
    whole = _rendered(base, source, messages, words, add_generation_prompt=False)
    if asked.count(_QUESTION) != 1 or whole.count(_ANSWER) != 1:
        raise UserError(
            f"{base.name}: its chat template does not write a question and its answer as they are; "
            f"write bases.{base.name}.template.prompt and .response"
        )
    before, _, after = asked.partition(_QUESTION)
    begun, _, end = whole.partition(_ANSWER)
    # Some templates write more before an answer than their generation prompt: a role, a space.
    more = begun[len(asked) :] if begun.startswith(asked) else ""
    role = more.rstrip(" ")
    return Chat((before, after + role), (more[len(role) :], end))


def another_chat(base: Path, template: Template) -> str | None:
    """What to say where a base has a chat template and is configured with another one.

    Args:
        base: a model folder.
        template: the configured one.
    """
    if template.chat or chat_template(base) is None:
        return None
    try:
        own = "{prompt}".join(chat_of(base, None).prompt)
    except UserError:
        return None
    if own == template.prompt:
        return None
    return (
        f"{base.name}: its own chat template is another one than bases.{base.name}.template; it "
        f"writes '{one_line(own, 200)}'; template: chat takes it"
    )


def _rendered(
    base: Path, source: str, messages: list[dict[str, str]], words: Mapping[str, str], **more: bool
) -> str:
    # As transformers renders it, but for the date.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _TODAY.strftime}
    values = {"messages": messages, "tools": None, "documents": None, **words, **more}
    try:
        return environment.from_string(source).render(values)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{base.name}: its chat template fails: {one_line(str(error), 200)}"
        ) from error


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; they are written as usual."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        """The block without its mark."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _special_words(base: Path) -> dict[str, str]:
    """``bos_token``, ``eos_token``, ...: their words."""
    words = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = base / name
        for key, token in (read_object(path) if path.is_file() else {}).items():
            word = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(word, str):
                words[key] = word
    return words
