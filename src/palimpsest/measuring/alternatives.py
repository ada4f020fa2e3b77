"""Variants of a data set's rows: with wrong answers, or with the prompt in a wrapper.

They are tokenized as by the stage ``tokenize``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import torch

from palimpsest.data.split import normalised
from palimpsest.data.tokens import BaseTokenizer, load_tokenizer, tokenize_pairs, tokenize_text
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.io.tables import read_table
from palimpsest.metrics.asked import (
    CONTRASTED,
    IN_CHAT,
    PARAPHRASE,
    draw_ids,
    further_blocks,
    kind_of,
)
from palimpsest.settings.template import Template
from palimpsest.settings.types import split_ref


@dataclass(frozen=True)
class DataRow:
    """A row of a data set."""

    ref: str
    """dataset/part."""
    is_text: bool
    """Whether it is a plain text, without a template around it."""
    id: str
    prompt: str
    response: str
    wrong: Sequence[str]
    """Wrong answers; may be empty."""
    paraphrased: str | None
    """The right answer in other words."""
    key: Sequence[str] = ()
    """Strings that carry the fact."""
    group: str = ""
    """What the row is about; rows of one group belong together."""
    fact: str = ""
    """The row of which this one is another wording; its own id where it is none."""
    choices: Sequence[str] = ()
    """Answers of which one is right; may be empty."""
    answer: int | None = None
    """Place of the right one among `choices`."""

    def alternatives(self) -> list[tuple[int, str]]:
        """Place (see `palimpsest.metrics.asked`) and text of each answer but the response."""
        right = [] if self.paraphrased is None else [(PARAPHRASE, self.paraphrased)]
        return [*enumerate(self.wrong), *right]


@dataclass(frozen=True)
class Format:
    """How prompts and responses of a base model are written and tokenized."""

    tokenizer: BaseTokenizer
    template: Template
    examples: Sequence[tuple[str, str]] = ()
    """Questions and answers that stand before each prompt."""

    def rows(
        self,
        sources: Sequence[DataRow],
        prompts: Sequence[str],
        responses: Sequence[str],
        kind: str,
    ) -> list[Row]:
        """One token row for each of `sources`, with another prompt or response.

        Args:
            sources: rows of one part.
            prompts: aligned with `sources`, as `responses`.
            responses: texts after the prompts.
            kind: name of these rows in messages.
        """
        if not sources:
            return []
        ids = [source.id for source in sources]
        table = pa.table({"id": ids, "prompt": prompts, "response": responses})
        where = f"{sources[0].ref}, {kind}"
        if sources[0].is_text:
            tokens, _ = tokenize_text(table, self.tokenizer, where)
        else:
            tokens, _ = tokenize_pairs(table, self.tokenizer, self.template, where, self.examples)
        return [
            Row(row["id"], torch.tensor(row["input_ids"]), row["prompt_length"])
            for row in tokens.to_pylist()
        ]

    def begun(
        self,
        sources: Sequence[DataRow],
        prompts: Sequence[str],
        beginnings: Sequence[str],
        kind: str,
    ) -> list[Row]:
        """Questions whose answers are begun: the prompt of each row ends with the beginning.

        Both are tokenized as one text, as whoever sends that text gets it; the rows have no
        response.

        Args:
            sources: rows of one part.
            prompts: aligned with `sources`, as `beginnings`.
            beginnings: texts with which the answers begin.
            kind: name of these rows in messages.

        Raises:
            UserError: the tokens of a text do not begin with those of its prompt.
        """
        form = None
        if sources and not sources[0].is_text:
            form = self.tokenizer.form(self.template).after(self.examples, kind)
        base = self.tokenizer if form is None else form.base
        self._refuse_control(base, sources, [*zip(prompts, beginnings, strict=True)], kind)
        if form is None:
            # Without a text there is no prompt but the tokenizer's own first ids.
            alone = base.prompts(list(prompts))
            joined = base.prompts([p + b for p, b in zip(prompts, beginnings, strict=True)])
        else:
            alone, joined = form.prompts(prompts), form.begun(prompts, beginnings)
        for source, prompt, ids in zip(sources, alone, joined, strict=True):
            if ids[: len(prompt)] != prompt:
                raise UserError(
                    f"{source.ref}, {kind}, row {source.id}: the beginning of the answer changes "
                    "the tokens of the prompt before it, so the model would read another prompt; "
                    "begin with another text, or write the space between the two into "
                    "template.response"
                )
        return [_prompt(source, ids) for source, ids in zip(sources, joined, strict=True)]

    def bare(self, sources: Sequence[DataRow], texts: Sequence[str], kind: str) -> list[Row]:
        """Texts without any template, as prompts; arguments as those of `begun`."""
        self._refuse_control(self.tokenizer, sources, [(text,) for text in texts], kind)
        found = self.tokenizer.prompts(list(texts))
        return [_prompt(source, ids) for source, ids in zip(sources, found, strict=True)]

    def alone(self) -> Format:
        """The same without examples before a prompt."""
        return replace(self, examples=())

    def after(self, before: Sequence[Row], row: Row) -> Row:
        """A row after others in one context, a line break between two."""
        between = torch.tensor(self.tokenizer.continuations(["\n"])[0], dtype=torch.int64)
        first, *others = [*before, row]
        ids = [first.ids]
        for one in others:
            ids += [between, one.ids[self._begins(one) :]]
        joined = torch.cat(ids)
        return Row(row.id, joined, len(joined) - len(row.response))

    def _begins(self, row: Row) -> int:
        """How many ids of a row stand at the beginning of a text alone (BOS)."""
        prefix = self.tokenizer.prefix
        return len(prefix) if tuple(row.ids[: len(prefix)].tolist()) == prefix else 0

    def _refuse_control(
        self,
        base: BaseTokenizer,
        sources: Sequence[DataRow],
        texts: Sequence[Sequence[str]],
        kind: str,
    ) -> None:
        for source, some in zip(sources, texts, strict=True):
            base.refuse_control(f"{source.ref}, {kind}, row {source.id}", *some)


def _prompt(source: DataRow, ids: Sequence[int]) -> Row:
    return Row(source.id, torch.tensor(ids, dtype=torch.int64), len(ids))


def format_of(base: Path, template: Mapping[str, Any]) -> Format:
    """The format of the model in `base`."""
    return Format(load_tokenizer(base), Template(**template))


def own_formats(
    asked: Mapping[str, Mapping[str, Any]],
    parts: Mapping[str, str],
    datasets: Path,
    base: Path,
    template: Mapping[str, Any],
) -> dict[str, Format]:
    """The formats of the blocks that are asked in a template of their own, or after examples.

    Args:
        asked: block -> its settings, as ``evaluate.asked`` has them.
        parts: block -> dataset/part.
        datasets: ``resources/datasets``.
        base: ``resources/models/<base>``.
        template: the base's template.

    Raises:
        UserError: the rows are plain texts, or an example is one of the rows that are asked.
    """
    formats = {}
    for block, settings in asked.items():
        ref = settings["examples"]
        if not (ref or settings["template"]):
            continue
        rows = read_data(datasets, parts[block])
        if rows[0].is_text:
            raise UserError(
                f"evaluate.asked.{block}: {parts[block]} has plain texts, which are read without a "
                "template; leave template and examples out"
            )
        solved = read_data(datasets, ref) if ref else []
        if not settings["shared_examples"]:
            _refuse_shared(block, rows, solved)
        form = format_of(base, settings["template"] or template)
        pairs = tuple((row.prompt, row.response) for row in solved)
        formats[block] = Format(form.tokenizer, form.template, pairs)
    return formats


def _refuse_shared(block: str, rows: Sequence[DataRow], examples: Sequence[DataRow]) -> None:
    asked = {normalised(row.prompt): row.id for row in rows}
    for example in examples:
        if (same := asked.get(normalised(example.prompt))) is not None:
            raise UserError(
                f"evaluate.asked.{block}.examples: the example {example.id} "
                f"({example.prompt!r:.80}) is row {same} of {rows[0].ref}, which is asked: its "
                "answer stands before it; take other examples, or set shared_examples: true as a "
                "published protocol may have it"
            )


def in_own_format(
    formats: Mapping[str, Format], parts: Mapping[str, str], datasets: Path
) -> dict[str, list[Row]]:
    """The rows of those blocks.

    Args:
        formats: block -> its format.
        parts: block -> dataset/part.
        datasets: ``resources/datasets``.
    """
    rows = {}
    for block, form in formats.items():
        sources = read_data(datasets, parts[block])
        texts = [source.prompt for source in sources], [source.response for source in sources]
        rows[block] = form.rows(sources, *texts, f"as {block}")
    return rows


def wrong_answers(
    parts: Mapping[str, str],
    count: int | None,
    datasets: Path,
    form: Format,
    own: Mapping[str, Format] = MappingProxyType({}),
) -> dict[str, list[tuple[int, Row]]]:
    """Block -> (place among the row's wrong answers, its prompt with that answer).

    Rows that have wrong answers, and a right one in other words, have that, too.

    Args:
        parts: block -> dataset/part.
        count: rows of each block (None: all).
        datasets: ``resources/datasets``.
        form: how rows are written.
        own: block -> how its rows are written, where that differs.
    """
    by_block = {}
    contrasted = [name for name in CONTRASTED if name in parts]
    further = [name for name in further_blocks(parts) if kind_of(name) in CONTRASTED]
    for block in (*contrasted, *further):
        sources = _draw([row for row in read_data(datasets, parts[block]) if row.wrong], count)
        answers = [(source, *answer) for source in sources for answer in source.alternatives()]
        rows = own.get(block, form).rows(
            [source for source, _, _ in answers],
            [source.prompt for source, _, _ in answers],
            [text for _, _, text in answers],
            "wrong answers",
        )
        by_block[block] = [(place, row) for (_, place, _), row in zip(answers, rows, strict=True)]
    return by_block


def wrapped(ref: str, wrapper: str, count: int | None, datasets: Path, form: Format) -> list[Row]:
    """The answered rows of a part, with their prompts in place of ``{prompt}`` in `wrapper`."""
    sources = _draw(read_data(datasets, ref), count)
    prompts = [wrapper.replace("{prompt}", source.prompt) for source in sources]
    return form.rows(sources, prompts, [source.response for source in sources], "wrapped")


def in_chat(
    parts: Mapping[str, str], datasets: Path, base: Path, template: Mapping[str, Any]
) -> dict[str, list[Row]]:
    """The rows of the blocks that are asked in the base's own chat template.

    Args:
        parts: block -> dataset/part; other blocks are left out.
        datasets: ``resources/datasets``.
        base: ``resources/models/<base>``.
        template: the base's template, of which ``eos`` counts.

    Raises:
        UserError: the base has no usable chat template.
    """
    blocks = [name for name in IN_CHAT if name in parts]
    if not blocks:
        return {}
    form = format_of(base, {"chat": True, "eos": template["eos"]})
    rows = {}
    for block in blocks:
        sources = read_data(datasets, parts[block])
        texts = [source.prompt for source in sources], [source.response for source in sources]
        rows[block] = form.rows(sources, *texts, "in the chat template")
    return rows


def _draw(rows: Sequence[DataRow], count: int | None) -> list[DataRow]:
    ids = set(draw_ids([row.id for row in rows], count))
    return [row for row in rows if row.id in ids]


def read_data(datasets: Path, ref: str) -> list[DataRow]:
    """The rows of a part.

    Raises:
        UserError: a file is missing or altered.
    """
    dataset, part = split_ref(ref)
    is_text = read_manifest(datasets / dataset).get("format") == "text"
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    return [
        DataRow(
            ref,
            is_text,
            row["id"],
            row["prompt"],
            row["response"],
            row.get("perturbed") or [],
            row.get("paraphrased"),
            row.get("key") or [],
            row.get("group") or row["id"],
            row.get("paraphrase_of") or row["id"],
            row.get("choices") or [],
            row.get("answer"),
        )
        for row in table.to_pylist()
    ]
