"""The text that a base reads: how a prompt and a response become one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from palimpsest.settings.types import Section, holding_once

CHAT = "chat"
"""Stands for the chat template in the base's own folder."""

_PROMPT, _RESPONSE = "### Question: {prompt}\n### Answer:", " {response}"


def _no_space_at_the_end(text: str) -> str:
    if text.endswith((" ", "\t")):
        raise ValueError(
            "a space at its end would be a token of its own; write it at the beginning of response"
        )
    return text


class Template(Section):
    """How a prompt and a response become one text; both are tokenized apart and joined."""

    chat: bool = False
    """Use the chat template in the base's folder, in place of `prompt` and `response`."""
    system: str | None = None
    """chat: text of the system message; null: as the chat template has it."""
    prompt: Annotated[
        str, holding_once("{prompt}", "{response}"), AfterValidator(_no_space_at_the_end)
    ] = _PROMPT
    """Text of the prompt; ``{prompt}`` stands for the question. No space at its end."""
    response: Annotated[str, holding_once("{response}", "{prompt}")] = _RESPONSE
    """Text of the response; ``{response}`` stands for the answer."""
    eos: bool = True
    """Teach the end-of-text token after the response."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.chat and (self.prompt, self.response) != (_PROMPT, _RESPONSE):
            raise ValueError("chat takes prompt and response from the base; leave them out")
        if self.system is not None and not self.chat:
            raise ValueError("system belongs to a chat template; write chat: true beside it")
        return self


def _written(value: Any) -> Any:
    return {"chat": True} if value == CHAT else value


AsWritten = BeforeValidator(_written, json_schema_input_type=Literal["chat"] | Template)
"""Reads ``template: chat`` as a template with ``chat: true``."""
