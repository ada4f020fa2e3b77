"""Token tables: prompt ids and response ids, tokenized apart and joined.

Reads ``tokenizer.json`` with the `tokenizers` package alone: the import of torch would take longer
than the work. `palimpsest.sources.tokenizer_files` makes the file complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from palimpsest.data.chat import chat_of, chat_template
from palimpsest.data.control import Control, control_of
from palimpsest.data.end_token import EndTokens, end_tokens, model_config
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.manifest import verified_folder
from palimpsest.settings.template import Template

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")

_MARKER = re.compile(r"<\|[^|<>\s]+\|>|</?s>")
"""What looks like a control token."""


@dataclass(frozen=True)
class BaseTokenizer:
    """The tokenizer of a base, with the facts that tokenizing needs.

    Texts are data: the words of control tokens in them are words. Templates, which may write
    control tokens, go through `form`.
    """

    folder: Path
    control: Control
    prefix: tuple[int, ...]
    """Special ids that begin every text (BOS), by the tokenizer's rules."""
    adds_space: bool
    """The tokenizer puts a space before every text (SentencePiece)."""
    ends: EndTokens
    context: int | None
    """Longest input of the model, in tokens; None if its config sets no limit."""
    vocabulary: int | None
    """Number of token embeddings of the model."""

    @property
    def eos(self) -> int | None:
        """Id of the end-of-text token."""
        return self.ends.taught

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
        encoded = self.control.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in encoded]

    def form(self, template: Template) -> Form:
        """How this base writes prompts and responses.

        Raises:
            UserError: the template doubles a token that the tokenizer or we write, the tokenizer
                has no end token, or `chat` is set and the base has no usable chat template.
        """
        if template.chat:
            return self._chat_form(template)
        base = self._knowing(template.prompt, template.response)
        prompt = _frame(base.control.marked(template.prompt), "{prompt}")
        response = _frame(base.control.marked(template.response), "{response}")
        form = Form(base, prompt, response, self._end(template), begins=True)
        self._refuse_doubled(form)
        return form

    def _chat_form(self, template: Template) -> Form:
        chat = chat_of(self.folder, template.system)
        base = self._knowing(*chat.prompt, *chat.response)
        marked = base.control.marked
        # A token ends the model's turn; white space around it would be one more to guess.
        last = base._encode([marked(chat.response[1].strip())])[0][:1]
        end = last if template.eos and set(last) & self.ends.stops else self._end(template)
        prompt = marked(chat.prompt[0]), marked(chat.prompt[1])
        # A chat template writes BOS itself.
        return Form(base, prompt, (marked(chat.response[0]), ""), tuple(end), begins=False)

    def _knowing(self, *texts: str) -> BaseTokenizer:
        """The same, with the added tokens in `texts` as control tokens."""
        if not any(word in text for word in self.control.others for text in texts):
            return self
        words = [chat_template(self.folder) or "", *texts]
        specification = _text_of(self.folder / "tokenizer.json")
        return replace(self, control=control_of(specification, words))

    def _end(self, template: Template) -> tuple[int, ...]:
        if not template.eos:
            return ()
        if self.eos is None:
            raise UserError(
                f"{self.folder.name}: neither its tokenizer (eos_token) nor its config "
                "(eos_token_id) names an end-of-text token; set template.eos: false"
            )
        return (self.eos,)

    def _refuse_doubled(self, form: Form) -> None:
        at = f"bases.{self.folder.name}.template"
        first = form.base._encode([form.prompt[0]])[0][: len(self.prefix)]
        if self.prefix and tuple(first) == self.prefix:
            word = form.base.control.plain(form.prompt[0])[:20]
            raise UserError(
                f"{at}.prompt begins with the token that the tokenizer puts before every text "
                f"({word!r}...); it would stand there twice: leave it out"
            )
        last = form.base._encode([form.response[1].rstrip()])[0][-1:]
        if form.end and tuple(last) == form.end:
            raise UserError(
                f"{at}.response ends with the end-of-text token, which is taught after it as "
                "well; leave it out, or set template.eos: false"
            )

    def refuse_control(self, where: str, *texts: str) -> None:
        """Refuse data that hold a control token's word, if this tokenizer cannot tell the two.

        Raises:
            UserError: a text holds one.
        """
        for word in filter(None, map(self.control.refused, texts)):
            raise UserError(
                f"{where}: it holds the text {word!r}, which this tokenizer takes for its control "
                "token; reword it or leave it out"
            )

    def unknown_markers(self, template: Template) -> list[str]:
        """What looks like a control token in a template, and is none of this tokenizer."""
        if template.chat:
            return []
        found = _MARKER.findall(template.prompt + template.response)
        return [word for word in dict.fromkeys(found) if word not in self.control.names]


@dataclass(frozen=True)
class Form:
    """How a base writes prompts and responses; the texts around them hold control tokens."""

    base: BaseTokenizer
    prompt: tuple[str, str]
    """Text before and after a question."""
    response: tuple[str, str]
    """Text before and after an answer."""
    end: tuple[int, ...]
    """Ids that are taught after a response."""
    begins: bool
    """Whether the tokenizer's own first ids (BOS) come before a prompt."""

    def after(self, examples: Sequence[tuple[str, str]], where: str) -> Form:
        """The same with solved examples before each question, an empty line after each.

        Args:
            examples: questions and answers.
            where: dataset/part, for messages.

        Raises:
            UserError: a chat template begins every text anew, so that nothing can stand before it;
                or an example holds the word of a control token.
        """
        if not examples:
            return self
        if not self.begins:
            raise UserError(
                f"{where}: a chat template has no place for examples before a question; write "
                "template.prompt and template.response of the block (evaluate.asked.<block>)"
            )
        for pair in examples:
            self.base.refuse_control(f"{where}, an example", *pair)
        solved = [
            "".join((self.prompt[0], q, self.prompt[1], self.response[0], a, self.response[1]))
            for q, a in examples
        ]
        return replace(self, prompt=("\n\n".join([*solved, self.prompt[0]]), self.prompt[1]))

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of questions."""
        before, after = self.prompt
        return self.encoded([before + text + after for text in texts])

    def begun(self, texts: Sequence[str], beginnings: Sequence[str]) -> list[list[int]]:
        """Ids of questions, each with the beginning of its answer, as one text."""
        before, after = self.prompt
        pairs = zip(texts, beginnings, strict=True)
        return self.encoded([before + text + after + self.response[0] + b for text, b in pairs])

    def encoded(self, prompts: list[str]) -> list[list[int]]:
        """Ids of questions with the texts around them."""
        return self.base.prompts(prompts) if self.begins else self.base._encode(prompts)

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of answers, with the end token."""
        before, after = self.response
        answers = self.base.continuations([before + text + after for text in texts])
        return [[*ids, *self.end] for ids in answers]


def load_tokenizer(base: Path) -> BaseTokenizer:
    """Read the tokenizer of a model folder.

    Raises:
        UserError: a file is missing or damaged, or names an end token that is none.
    """
    verified_folder(base, weights=False)
    return read_tokenizer(base)


def read_tokenizer(base: Path) -> BaseTokenizer:
    """Do the same for a folder without a manifest."""
    path = base / "tokenizer.json"
    specification = _text_of(path)
    try:
        tokenizer = Tokenizer.from_str(specification)
        control = control_of(specification, [chat_template(base) or ""])
    except UserError:
        raise
    except Exception as error:  # the package raises nothing narrower
        raise UserError(f"{path}: cannot be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = model_config(base)
    context = next((config[k] for k in _CONTEXT_KEYS if isinstance(config.get(k), int)), None)
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a", add_special_tokens=True).ids
    begin = next((i for i in range(len(full)) if full[i : i + len(bare.ids)] == bare.ids), 0)
    return BaseTokenizer(
        folder=base,
        control=control,
        prefix=tuple(full[:begin]),
        adds_space=bool(bare.tokens) and bare.tokens[0].startswith("\u2581"),
        ends=end_tokens(base, tokenizer.token_to_id),
        context=context,
        vocabulary=config.get("vocab_size"),
    )


SHORTEST = 8
"""Tokens of the shortest piece of a text."""


def tokenize_pairs(
    table: pa.Table,
    base: BaseTokenizer,
    template: Template,
    where: str,
    examples: Sequence[tuple[str, str]] = (),
) -> tuple[pa.Table, int]:
    """Tokenize a part; nothing is padded or cut.

    Args:
        table: columns ``id``, ``prompt``, ``response``.
        base: the tokenizer.
        template: how a prompt and a response are written.
        where: dataset/part, for messages.
        examples: questions and answers that stand before each prompt.

    Returns:
        The table with the columns `schemas.TOKENS`, and the length of
        its longest row.

    Raises:
        UserError: a row is longer than the model's context, has no response tokens or ids that
            the model has no embedding for, or holds the word of a control token where the
            tokenizer cannot tell the two apart; or as `BaseTokenizer.form`.
    """
    form = base.form(template).after(examples, where)
    ids, prompts, responses = (table[name].to_pylist() for name in ("id", "prompt", "response"))
    _refuse_control(form.base, where, table)
    rows = list(zip(form.prompts(prompts), form.responses(responses), strict=True))
    return _joined(base, where, ids, rows, len(form.end), "shorten the row or leave it out")


def tokenize_text(
    table: pa.Table, base: BaseTokenizer, where: str, window: int | None = None
) -> tuple[pa.Table, int]:
    """Tokenize a part of plain texts: no template, no end token, nothing padded or cut.

    Without a context (an empty prompt) the model begins at BOS or, where the tokenizer has none, at
    the first token of the text; that is the prompt, and everything after it a target.

    Args:
        table: columns ``id``, ``prompt`` (the context), ``response`` (the rest).
        base: the tokenizer.
        where: dataset/part, for messages.
        window: tokens of the pieces into which texts without a context are cut, BOS before each;
            a piece has the id of its text and ``-kN``. None: texts stay whole.

    Returns:
        As `tokenize`.

    Raises:
        UserError: a text is longer than the model's context, has nothing to learn or ids that the
            model has no embedding for.
    """
    contexts, rests = (table[name].to_pylist() for name in ("prompt", "response"))
    _refuse_control(base, where, table)
    pairs = list(zip(contexts, rests, strict=True))
    begun = base.prompts([context or rest for context, rest in pairs])
    continued = base.continuations([rest if context else "" for context, rest in pairs])
    first = max(1, len(base.prefix))
    rows = [
        (begin, more) if context else (begin[:first], begin[first:])
        for context, begin, more in zip(contexts, begun, continued, strict=True)
    ]
    advice = "set window_words of the data set to cut its texts into shorter rows"
    ids = table["id"].to_pylist()
    if window is not None:
        pieces = [_pieces(begun + more, base.prefix, window) for begun, more in rows]
        ids = [f"{i}-k{k}" for i, cut in zip(ids, pieces, strict=True) for k in range(len(cut))]
        rows = [(piece[:first], piece[first:]) for cut in pieces for piece in cut]
    return _joined(base, where, ids, rows, 0, advice)


def _pieces(ids: list[int], prefix: Sequence[int], window: int) -> list[list[int]]:
    """The ids of a text in pieces of `window`, each of which begins with the tokenizer's prefix.

    A rest of fewer than `SHORTEST` ids is left out, unless it is all that there is.
    """
    begin, body = list(prefix), ids[len(prefix) :]
    step = window - len(begin)
    cut = [body[start : start + step] for start in range(0, len(body), step)]
    whole = [piece for piece in cut if len(piece) >= SHORTEST] or cut[:1]
    return [begin + piece for piece in whole]


def _refuse_control(base: BaseTokenizer, where: str, table: pa.Table) -> None:
    for row in table.select(["id", "prompt", "response"]).to_pylist():
        base.refuse_control(f"{where}, row {row['id']}", row["prompt"], row["response"])


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


def _frame(template: str, placeholder: str) -> tuple[str, str]:
    before, _, after = template.partition(placeholder)
    return before, after


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
