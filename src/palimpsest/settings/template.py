"""The text that a base reads: how a prompt and a response become one."""

from __future__ import annotations

from typing import Annotated

from palimpsest.settings.types import Section, holding


class Template(Section):
    """How a prompt and a response become one text; both are tokenized apart and joined."""

    prompt: Annotated[str, holding("{prompt}")] = "### Question: {prompt}\n### Answer:"
    """Text of the prompt; ``{prompt}`` stands for the question. No space at its end."""
    response: Annotated[str, holding("{response}")] = " {response}"
    """Text of the response; ``{response}`` stands for the answer."""
    eos: bool = True
    """Teach the end-of-text token after the response."""
