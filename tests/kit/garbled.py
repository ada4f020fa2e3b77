"""Answers of the embedded subject before and after unlearning, and what they are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palimpsest.metrics.garbled import Answer, Ordinary
from palimpsest.metrics.normalise import words

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).with_name("answers.json").read_text(encoding="utf-8")
)
"""Recorded texts.

``data``: questions and answers of 48 rows to forget and 48 to keep, and further words of the data;
``answers``: of five models the lines of generations.parquet about these rows (part, id, answer,
stopped, before_tokens, before_logprob); ``pieces``: words of more than one token -> their tokens.
"""


def pieces(of: Iterable[str]) -> dict[str, int]:
    """Tokens of each word, as SmolLM2 writes it."""
    return {word: RECORDED["pieces"].get(word, 1) for word in of}


def answers(model: str) -> list[Answer]:
    """Recorded answers: ``base``, ``original``, ``retrained``, ``sku`` or ``sku-anchored``."""
    return [Answer((part, name), *rest) for part, name, *rest in RECORDED["answers"][model]]


def ordinary(*models: str) -> Ordinary:
    """What the answers of `models` show to be ordinary."""
    return Ordinary(
        RECORDED["data"],
        [answers(model) for model in models],
        apart="base" in models,
        pieces=pieces,
    )


def said(text: str, stopped: bool = True) -> Answer:
    """An answer to a question of its own that does not surprise `original`."""
    return Answer(("forget", "another"), text, stopped, len(words(text)), 0.0)
