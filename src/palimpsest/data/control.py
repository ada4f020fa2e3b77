"""Control tokens come from templates alone: what data say is data.

A tokenizer turns the text ``<|im_end|>`` into its control token wherever that text stands, in a
question or an answer, too. Here control tokens get names that no data can hold. A template is
written with these names; the same words elsewhere are encoded like any other text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

PROBES = ("### Question: What is 12 + 345?\n### Answer:", " Café 你好,  don't\tstop\n\n", "a")
"""Texts that two forms of a tokenizer must encode alike."""


@dataclass(frozen=True)
class Control:
    """A tokenizer whose control tokens have secret names."""

    tokenizer: Tokenizer
    names: Mapping[str, str]
    """Word of a control token -> its secret name."""
    others: tuple[str, ...] = ()
    """Added tokens that are ordinary words."""
    complete: bool = True
    """False: the tokenizer cannot be told apart from its words; see `refused`."""

    def marked(self, template: str) -> str:
        """`template`, in which control tokens have their secret names."""
        return _replaced(template, self.names) if self.complete else template

    def plain(self, text: str) -> str:
        """`text` with the words of the control tokens, for messages."""
        return _replaced(text, {name: word for word, name in self.names.items()})

    def refused(self, text: str) -> str | None:
        """The control token in a text of data that the tokenizer would take for one, if any."""
        if self.complete:
            return None
        return next((word for word in self.names if word in text), None)


def control_of(specification: str, templates: Iterable[str] = ()) -> Control:
    """The control tokens of a tokenizer.

    Those are its special tokens, and the added ones that a template writes. Other added tokens
    (the line breaks and HTML tags of Gemma) are ordinary words.

    Args:
        specification: text of ``tokenizer.json``.
        templates: the base's own chat template, and the one that is used.
    """
    written = "\0".join(templates)
    original = _plain_tokenizer(specification)
    spec = json.loads(specification)
    added = {t["content"]: t["special"] for t in spec["added_tokens"] if t["content"].strip()}
    words = [word for word, special in added.items() if special or word in written]
    others = tuple(word for word in added if word not in words)
    nonce = secrets.token_hex(8)
    names = {word: f"\ue000{nonce}x{i}\ue001" for i, word in enumerate(words)}
    untold = Control(original, names, others, complete=False)
    try:
        renamed = _plain_tokenizer(json.dumps(_renamed(spec, names)))
    except Exception:  # the package raises nothing narrower; a merge may make a control token
        return untold
    control = Control(renamed, names, others)
    return control if _alike(original, control) else untold


def _plain_tokenizer(specification: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(specification)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _renamed(spec: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    added = [{**t, "content": names.get(t["content"], t["content"])} for t in spec["added_tokens"]]
    model = dict(spec["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(word, word): i for word, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    # Special ids around a text are no matter here; the post-processor knows them by their words.
    return {**spec, "added_tokens": added, "model": model, "post_processor": None}


def _alike(original: Tokenizer, control: Control) -> bool:
    """Whether both forms encode templates and ordinary texts alike."""
    texts = [*PROBES, *(f"{word}a {word}\n" for word in control.names)]
    before = original.encode_batch(texts, add_special_tokens=False)
    after = control.tokenizer.encode_batch(
        [control.marked(text) for text in texts], add_special_tokens=False
    )
    return [one.ids for one in before] == [one.ids for one in after]


def _replaced(text: str, words: Mapping[str, str]) -> str:
    if not words:
        return text
    # The longest word first, as the tokenizer has it.
    longest = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest)), lambda match: words[match[0]], text)
