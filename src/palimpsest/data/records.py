"""The record that every adapter makes of a row: a question and its answer, or a plain text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Record:
    """A question and its answer, or a plain text, with the facts about it."""

    prompt: str
    """The question, or all of a plain text."""
    response: str | None
    """The answer; None in a plain text, which the parts divide into context and rest."""
    group: str
    """Rows with the same group stay together when a data set is split."""
    source_row: int
    """0-based row in the source file."""
    suffix: str = ""
    """Distinguishes the records of one source row: ``-0``, ``-1``."""
    where: str = ""
    """The place in the file as a person would count, ``line 3``."""
    subset: str | None = None
    """Name of its list in a nested file."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What ``where`` can choose it by: the columns of its row, and what an adapter adds."""
    mended: tuple[str, str] | None = None
    """A misprint of the published file, and its correction."""
    key: list[str] = field(default_factory=list)
    """Strings that carry the fact; all occur in the response (or in each wording of a text)."""
    key_from: str = "none"
    """Where they come from: given, derived or none (`palimpsest.data.keys`)."""
    harmful: bool | None = None
    """Whether the response is marked harmful; None: it has no mark."""
    choices: list[str] = field(default_factory=list)
    """Options of a multiple-choice question."""
    answer: int | None = None
    """Index of the right choice."""
    perturbed: list[str] = field(default_factory=list)
    """Wrong answers in the words of the right one (of `paraphrased`, where there is one)."""
    paraphrased: str | None = None
    """The right answer in words that no model is taught."""
    taught: list[str] = field(default_factory=list)
    """Paraphrases of the prompt that pretraining may teach."""
    unseen: str | None = None
    """A paraphrase of the prompt that no model sees before the measurement."""
    question: str | None = None
    """The question that the choices answer, where the prompt is another one."""

    @property
    def answers(self) -> str:
        """The text in which the key strings stand."""
        return self.prompt if self.response is None else self.response
