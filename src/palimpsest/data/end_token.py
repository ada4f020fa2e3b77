"""The end token of a base: which token ends a taught row, and which end an answer.

All stages ask here. The tokenizer's word counts first, then ``eos_token_id`` of ``config.json``,
then that of ``generation_config.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.data.json_files import read_object
from palimpsest.errors import UserError

KEY = "eos_token_id"


@dataclass(frozen=True)
class EndTokens:
    """The end tokens of a base."""

    taught: int | None
    """The one that ends a taught row; None: the base has none."""
    stops: frozenset[int]
    """All that end an answer."""


def end_tokens(base: Path, id_of: Callable[[str], int | None]) -> EndTokens:
    """The end tokens of the model folder `base`.

    Args:
        base: a model folder.
        id_of: id of a word in the tokenizer's vocabulary; None: it has no such word.

    Raises:
        UserError: a file names an end token that is none; the message names the file and the key.
    """
    configured, generation = configured_ids(base)
    word = _of_tokenizer(base, id_of)
    taught = [*([] if word is None else [word]), *configured, *generation][:1]
    return EndTokens(taught[0] if taught else None, frozenset({*taught, *generation}))


def configured_ids(base: Path) -> tuple[list[int], list[int]]:
    """The end tokens of the model's config, and those of generation (else `UserError`)."""
    config = model_config(base)
    vocabulary = config.get("vocab_size")
    configured = _ids(base / "config.json", config, vocabulary)
    path = base / "generation_config.json"
    generation = _ids(path, read_object(path), vocabulary) if path.is_file() else configured
    return configured, generation


def model_config(base: Path) -> dict[str, Any]:
    """The model's config; that of the language model, where it is a part of it."""
    config = read_object(base / "config.json")
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _of_tokenizer(base: Path, id_of: Callable[[str], int | None]) -> int | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = base / name
        token = read_object(path).get("eos_token") if path.is_file() else None
        word = token.get("content") if isinstance(token, dict) else token
        if word is None:
            continue
        found = id_of(word) if isinstance(word, str) else None
        if found is None:
            raise UserError(f"{path}: eos_token: {word!r:.60} is no token of the tokenizer")
        return found
    return None


def _ids(path: Path, config: dict[str, Any], vocabulary: Any) -> list[int]:
    value = config.get(KEY)
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    limit = vocabulary if isinstance(vocabulary, int) else None
    for number in ids:
        if type(number) is not int or number < 0 or (limit is not None and number >= limit):
            most = "" if limit is None else f" (0 to {limit - 1})"
            raise UserError(
                f"{path}: {KEY}: {value!r:.60} is no end token; write the id of a token{most}, a "
                "list of such ids, or null"
            )
    if not ids:
        raise UserError(f"{path}: {KEY}: the list is empty; write the id of a token, or null")
    return ids
