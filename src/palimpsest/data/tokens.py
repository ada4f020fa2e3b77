"""Token tables: prompt ids and response ids, tokenized apart and joined.

Reads ``tokenizer.json`` with the `tokenizers` package alone: the import of torch would take longer
than the work. `palimpsest.sources.tokenizer_files` makes the file complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.manifest import verified_folder
from palimpsest.settings.template import Template

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class BaseTokenizer:
    """The tokenizer of a base, with the facts that tokenizing needs."""

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    """Special ids that begin every text (BOS), by the tokenizer's rules."""
    adds_space: bool
    """The tokenizer puts a space before every text (SentencePiece)."""
    eos: int | None
    """Id of the end-of-text token."""
    context: int | None
    """Longest input of the model, in tokens; None if its config sets no limit."""
    vocabulary: int | None
    """Number of token embeddings of the model."""

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts at the beginning of an input."""
        return [[*self.prefix, *ids] for ids in self._encode(texts)]

    def continuations(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts that go on after another text: no special ids, no added space."""
        if not self.adds_space:
            return self._encode(texts)
        # After a line break the added space stands before the line break, not before the text.
        anchor = self._encode(["\n"])[0]
        joined = self._encode(["\n" + text for text in texts])
        plain = self._encode(texts)
        return [
            long[len(anchor) :] if long[: len(anchor)] == anchor else short
            for long, short in zip(joined, plain, strict=True)
        ]

    def pieces(self, words: Iterable[str]) -> dict[str, int]:
        """Number of tokens of each word by itself: the fewest over a capital and a space before.

        Args:
            words: in small letters.
        """
        distinct = sorted(set(words))
        forms = [
            [len(ids) for ids in self._encode([space + write(word) for word in distinct])]
            for space in (" ", "")
            for write in (str, str.capitalize, str.upper)
        ]
        return {word: min(counts) for word, *counts in zip(distinct, *forms, strict=True)}

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def load_tokenizer(base: Path) -> BaseTokenizer:
    """Read the tokenizer of a model folder.

    Raises:
        UserError: a file is missing or damaged.
    """
    verified_folder(base, weights=False)
    try:
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    except Exception as error:  # the package raises nothing narrower
        raise UserError(f"{base / 'tokenizer.json'}: cannot be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(base / "config.json")
    config = {**config, **config.get("text_config", {})}
    context = next((config[k] for k in _CONTEXT_KEYS if isinstance(config.get(k), int)), None)
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a", add_special_tokens=True).ids
    begin = next((i for i in range(len(full)) if full[i : i + len(bare.ids)] == bare.ids), 0)
    return BaseTokenizer(
        tokenizer=tokenizer,
        prefix=tuple(full[:begin]),
        adds_space=bool(bare.tokens) and bare.tokens[0].startswith("\u2581"),
        eos=_eos(base, tokenizer, config),
        context=context,
        vocabulary=config.get("vocab_size"),
    )


def tokenize_pairs(
    table: pa.Table, base: BaseTokenizer, template: Template, where: str
) -> tuple[pa.Table, int]:
    """Tokenize a part; nothing is padded or cut.

    Args:
        table: columns ``id``, ``prompt``, ``response``.
        base: the tokenizer.
        template: how a prompt and a response are written.
        where: dataset/part, for messages.

    Returns:
        The table with the columns `schemas.TOKENS`, and the length of
        its longest row.

    Raises:
        UserError: a row is longer than the model's context, has no response tokens or ids that
            the model has no embedding for; or the template's end token is not in the tokenizer.
    """
    if template.eos and base.eos is None:
        raise UserError(
            "the tokenizer names no end-of-text token (eos_token); set template.eos: false"
        )
    end = [base.eos] if template.eos and base.eos is not None else []
    ids = table["id"].to_pylist()
    prompts = base.prompts(_fill(template.prompt, "{prompt}", table["prompt"].to_pylist()))
    responses = base.continuations(
        _fill(template.response, "{response}", table["response"].to_pylist())
    )
    rows = [(p, [*r, *end]) for p, r in zip(prompts, responses, strict=True)]
    return _joined(base, where, ids, rows, len(end), "shorten the row or leave it out")


def tokenize_text(table: pa.Table, base: BaseTokenizer, where: str) -> tuple[pa.Table, int]:
    """Tokenize a part of plain texts: no template, no end token, nothing padded or cut.

    Without a context (an empty prompt) the model begins at BOS or, where the tokenizer has none, at
    the first token of the text; that is the prompt, and everything after it a target.

    Args:
        table: columns ``id``, ``prompt`` (the context), ``response`` (the rest).
        base: the tokenizer.
        where: dataset/part, for messages.

    Returns:
        As `tokenize`.

    Raises:
        UserError: a text is longer than the model's context, has nothing to learn or ids that the
            model has no embedding for.
    """
    contexts, rests = (table[name].to_pylist() for name in ("prompt", "response"))
    pairs = list(zip(contexts, rests, strict=True))
    begun = base.prompts([context or rest for context, rest in pairs])
    continued = base.continuations([rest if context else "" for context, rest in pairs])
    first = max(1, len(base.prefix))
    rows = [
        (begin, more) if context else (begin[:first], begin[first:])
        for context, begin, more in zip(contexts, begun, continued, strict=True)
    ]
    advice = "set window_words of the data set to cut its texts into shorter rows"
    return _joined(base, where, table["id"].to_pylist(), rows, 0, advice)


def _joined(
    base: BaseTokenizer,
    where: str,
    ids: list[str],
    rows: list[tuple[list[int], list[int]]],
    end: int,
    advice: str,
) -> tuple[pa.Table, int]:
    for row_id, (prompt, response) in zip(ids, rows, strict=True):
        _check(base, f"{where}, row {row_id}", prompt, response, end, advice)
    columns = [ids, [p + r for p, r in rows], [len(p) for p, _ in rows]]
    return pa.table(columns, schema=schemas.TOKENS), max(len(p) + len(r) for p, r in rows)


def _check(
    base: BaseTokenizer,
    where: str,
    prompt: list[int],
    response: list[int],
    end: int,
    advice: str,
) -> None:
    if len(response) == end:
        raise UserError(f"{where}: its response has no tokens")
    if base.context is not None and len(prompt) + len(response) > base.context:
        raise UserError(
            f"{where}: {len(prompt)} prompt and {len(response)} response tokens are "
            f"{len(prompt) + len(response)}, more than the model's context of {base.context}; "
            f"{advice}"
        )
    if base.vocabulary is not None and max(prompt + response) >= base.vocabulary:
        raise UserError(
            f"{where}: token id {max(prompt + response)} has no embedding, the model has "
            f"{base.vocabulary}; tokenizer and model do not belong together"
        )


def _fill(template: str, placeholder: str, texts: list[str]) -> list[str]:
    return [template.replace(placeholder, text) for text in texts]


def _eos(base: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> int | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(base / name).get("eos_token") if (base / name).is_file() else None
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            token_id: int | None = tokenizer.token_to_id(token)
            return token_id
    value: Any = config.get("eos_token_id")
    first: int | None = value[0] if isinstance(value, list) and value else value
    return first


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return value
