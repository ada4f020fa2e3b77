"""What an attack gets: the attacked model, its base and its subject, and the rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from palimpsest.attacks import (
    FORGET,
    RETAIN,
    UNSEEN,
    NoRow,
    NotFinite,
    Outcome,
)
from palimpsest.data.attack_split import Fact, overlaps, refuse_overlaps
from palimpsest.engine.body import Body
from palimpsest.engine.generate import Answer, Sampled, ended
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, batches
from palimpsest.errors import UserError
from palimpsest.io.tables import read_table
from palimpsest.measuring.alternatives import (
    DataRow,
    Format,
    format_of,
    own_formats,
    read_data,
)
from palimpsest.measuring.backends import transformers_answerer
from palimpsest.measuring.facts import facts_of, texts_of
from palimpsest.measuring.likelihood import token_columns
from palimpsest.measuring.limit import longest_answer
from palimpsest.metrics.answers import Answers
from palimpsest.metrics.asked import draw_ids
from palimpsest.metrics.degenerate import degenerate
from palimpsest.metrics.measures.answers import RECALL
from palimpsest.model.base import load_base, load_tokenizer
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Attack

T = TypeVar("T")


@dataclass
class Target:
    """The model under attack and the rows; an attack calls what it needs.

    Attributes:
        job: names the folders.
        device: where the model runs.
        split: ``split.json``.
        cell: what progress lines call the piece of the attack that runs.
        keeps: what cells share, see `once`.
    """

    job: Attack
    device: torch.device
    split: Mapping[str, Any]
    cell: str = ""
    keeps: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives the first cell that needs `name`; later ones get the same."""
        if name not in self.keeps:
            self.keeps[name] = make()
        result: T = self.keeps[name]
        return result

    @property
    def original(self) -> Path:
        """Folder of the model before unlearning.

        Raises:
            LookupError: the attack's settings do not say that it reads it.
        """
        if self.job.original is None:
            raise LookupError("set against_original = True in the attack's Settings")
        return self.job.original

    # Rows

    @functools.cached_property
    def every(self) -> list[DataRow]:
        """Every row to forget, in the words of unlearning."""
        return self._read("forget")

    @functools.cached_property
    def forget(self) -> list[DataRow]:
        """Those that are measured: as many as ``robust.rows`` says where the model writes answers.

        They are the rows that `measure` asks first, so that a row's value under attack stands
        beside its value without one. Where nothing is written, each row is measured.
        """
        ids = set(draw_ids([row.id for row in self.every], self.job.config.get("rows")))
        return [row for row in self.every if row.id in ids]

    @functools.cached_property
    def unseen(self) -> list[DataRow]:
        """The same facts in words that unlearning never saw; empty where there are none."""
        facts = {row.fact for row in self.forget}
        return [row for row in self._read(UNSEEN) if row.fact in facts]

    @functools.cached_property
    def retain(self) -> list[DataRow]:
        """Rows to keep that show the damage; no attacker has them."""
        rows = self._read(RETAIN)
        ids = set(draw_ids([row.id for row in rows], self.job.config["retain_rows"]))
        return [row for row in rows if row.id in ids]

    def measured(self, rows: Sequence[DataRow], fold: int | None) -> list[DataRow]:
        """Of rows to forget, in any wording, those that are measured in a fold; None: all.

        No fold has rows of facts that are not to be forgotten.

        Raises:
            NoRow: too many rows belong together to be divided into folds.
        """
        return [row for row in rows if fold is None or self._folds.get(row.fact) == fold]

    def attackers(self, fold: int) -> list[DataRow]:
        """The rows to forget that the attacker has while `fold` is measured.

        Raises:
            NoRow: he has none, or too many rows belong together to be divided into folds.
        """
        rows = [row for row in self.every if self._folds[row.fact] != fold]
        if not rows:
            raise NoRow(
                f"{self.job.split}: no row to forget is outside fold {fold}, so the attacker has "
                "none"
            )
        return rows

    def has(self, name: str) -> bool:
        """Whether the scenario has such other rows."""
        return name in self._parts["others"]

    def others(self, name: str) -> list[DataRow]:
        """Other rows of the attacker, ``retain``, ``general`` or ``holdout``; no key is in them.

        Raises:
            UserError: the scenario has none.
        """
        ref = self._parts["others"].get(name)
        if ref is None:
            has = ", ".join(sorted(self._parts["others"])) or "none"
            raise UserError(
                f"attack '{self.job.config['name']}' uses {name} rows, and the scenario has none "
                f"(it has: {has})"
            )
        without = {line["row"] for line in self.left_out[name]}
        rows = [row for row in self._others[name] if row.id not in without]
        if not rows:
            raise UserError(
                f"every row of {ref} holds a key string of what is to be forgotten: an attacker "
                f"with {name} rows would have the answers"
            )
        return rows

    @functools.cached_property
    def left_out(self) -> dict[str, list[dict[str, str]]]:
        """Other rows of the attacker that hold a key string of what is to be forgotten, by name."""
        if not self._others:
            return {}
        wordings = [
            row for ref in self._parts["wordings"] for row in read_data(self.job.datasets, ref)
        ]
        facts = facts_of(self.every, wordings)
        texts = {
            name: [(row.id, text) for row in rows for text in texts_of(row)]
            for name, rows in self._others.items()
        }
        return {name: [one.line() for one in overlaps(of, facts)] for name, of in texts.items()}

    @functools.cached_property
    def _others(self) -> dict[str, list[DataRow]]:
        others = self._parts["others"]
        return {name: read_data(self.job.datasets, ref) for name, ref in others.items()}

    def refuse_keys(self, texts: Mapping[str, str], what: str) -> None:
        """Refuse texts of the attack's settings that give a measured row away.

        Raises:
            UserError: a text holds a key string.
        """
        facts = [Fact(row.id, row.group, row.key, ()) for row in self.every]
        refuse_overlaps(texts.items(), facts, what)

    @property
    def _parts(self) -> Mapping[str, Any]:
        parts: Mapping[str, Any] = self.job.config["parts"]
        return parts

    def _read(self, part: str) -> list[DataRow]:
        """Rows of a part; none where the scenario has none.

        Raises:
            KeyError: the settings of the attack do not say that it measures the part.
        """
        ref = self._parts[part]
        return [] if ref is None else read_data(self.job.datasets, ref)

    @property
    def _folds(self) -> Mapping[str, int]:
        """Fact -> its fold."""
        folds: Mapping[str, int] | None = self.split["folds"]
        if folds is None:
            raise NoRow(
                f"attack '{self.job.config['name']}' divides the rows to forget between an "
                f"attacker and what he wants, and {self.split['why']}"
            )
        return folds

    # Models

    @functools.cached_property
    def network(self) -> nn.Module:
        """The attacked model as it is; an attack that changes weights takes `load`."""
        return self.load()

    def load(self, folder: Path | None = None, dtype: str | None = None) -> nn.Module:
        """A model of its own: the attacked one, or that of another folder with ``model.json``.

        Args:
            folder: None: the attacked model; `original`: the subject before unlearning.
            dtype: None: that of all results; ``float32``: updates are merged into the weights.
        """
        config = self.job.config
        return load_model(
            folder or self.job.model,
            self.job.base,
            dtype or config["dtype"],
            self.device,
            config["trust_remote_code"],
        )

    def load_base(self, dtype: str | None = None) -> nn.Module:
        """The base model, which is public."""
        config = self.job.config
        remote = config["trust_remote_code"]
        return load_base(self.job.base, dtype or config["dtype"], self.device, remote)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return load_tokenizer(self.job.base, self.job.config["trust_remote_code"])

    @functools.cached_property
    def form(self) -> Format:
        """How prompts and responses are written, unless they are asked otherwise: `form_of`."""
        return format_of(self.job.base, self.job.config["template"])

    def form_of(self, sources: Sequence[DataRow]) -> Format:
        """How `measure` asks rows of one part: in their own template, after their examples."""
        return self._own_forms.get(sources[0].ref, self.form) if sources else self.form

    @functools.cached_property
    def _own_forms(self) -> Mapping[str, Format]:
        """Part -> its form, where ``evaluate.asked`` gives it one."""
        job, template = self.job, self.job.config["template"]
        forms = own_formats(self._asked, self._parts, job.datasets, job.base, template)
        return {self._parts[block]: form for block, form in forms.items()}

    @property
    def _asked(self) -> Mapping[str, Mapping[str, Any]]:
        """Block -> how its rows are asked, where that differs."""
        asked: Mapping[str, Mapping[str, Any]] = self.job.config.get("asked", {})
        return asked

    # Reading and answering

    def rows(
        self,
        sources: Sequence[DataRow],
        prompts: Sequence[str] | None = None,
        responses: Sequence[str] | None = None,
        form: Format | None = None,
    ) -> list[Row]:
        """Token rows of `sources`, with other prompts or responses where they are given.

        Args:
            sources: the rows.
            prompts: aligned with `sources`, as `responses`.
            responses: texts after the prompts.
            form: how they are written; None: in the base's template.
        """
        prompts = [row.prompt for row in sources] if prompts is None else prompts
        responses = [row.response for row in sources] if responses is None else responses
        return (form or self.form).rows(sources, prompts, responses, self.job.config["name"])

    def questions(
        self,
        sources: Sequence[DataRow],
        prompts: Sequence[str] | None = None,
        responses: Sequence[str] | None = None,
    ) -> list[Row]:
        """The same of rows of one part, as `measure` asks them."""
        return self.rows(sources, prompts, responses, self.form_of(sources))

    def limit(self, part: str = FORGET) -> int:
        """Tokens that an answer to rows of a part may have."""
        own: int | None = self._asked.get(part, {}).get("max_new_tokens")
        return self._limit if own is None else own

    @functools.cached_property
    def _limit(self) -> int:
        """Of parts without one of their own; as in measuring, it follows from the responses."""
        parts = {FORGET: self.every, RETAIN: self.retain}
        own = [part for part, one in self._asked.items() if one["max_new_tokens"] is not None]
        common = [part for part in parts if part not in own] or [FORGET]
        rows = {part: self.questions(parts[part]) for part in common}
        setting = self.job.config["generation"]["max_new_tokens"]
        return longest_answer(setting, rows, self.form.tokenizer.context, self.job.label)

    def answers(
        self,
        network: nn.Module,
        rows: Sequence[Row],
        sampled: Sampled | None = None,
        shared: int | None = 0,
        part: str = FORGET,
    ) -> list[Answer]:
        """The model's answers to the prompts of `rows`, in their order; `engine.generate.answer`.

        They are as long as those to rows of `part` may be, and end where those end.

        Raises:
            NotFinite: the model's logits are not finite, by the first of the rows.
            UserError: a prompt leaves no room for an answer in the model's context.
        """
        if not rows:
            return []
        with torch.no_grad():
            ids = rows[0].ids[: max(1, rows[0].prompt_length)][None].to(self.device)
            if not network(input_ids=ids).logits[0, -1].isfinite().all():
                raise NotFinite("logits", as_it_is=False)
        batch_rows = self.job.config["generation"]["batch_rows"]
        limit = min(self.limit(part), self._room(rows, part))
        answerer = transformers_answerer(network, self.tokenizer, limit, batch_rows, shared)
        progress = Progress(f"{self.job.label} {self.cell}".rstrip(), len(rows))
        answers = answerer(rows, done=progress.update, sampled=sampled)
        stops = self._asked.get(part, {}).get("stop", ())
        return [ended(one, limit, stops, self.tokenizer) for one in answers]

    def _room(self, rows: Sequence[Row], part: str) -> int:
        """Tokens that the model's context leaves after the longest prompt."""
        context = self.form.tokenizer.context
        if context is None or not rows:
            return self.limit(part)
        longest = max(rows, key=lambda row: row.prompt_length)
        room = context - longest.prompt_length
        if room < 1:
            raise UserError(
                f"attack '{self.job.config['name']}': the prompt of row '{longest.id}' has "
                f"{longest.prompt_length} tokens, which leaves no room for an answer in the "
                f"model's context of {context}; shorten what the attack writes around the row"
            )
        return room

    @torch.no_grad()
    def mean_logprobs(self, network: nn.Module, rows: Sequence[Row]) -> list[float]:
        """Mean log-probability (nats) of a token of each row's response, end-of-text aside.

        Raises:
            NotFinite: one is not finite.
        """
        means = [0.0] * len(rows)
        body, ends = Body(network), self.form.tokenizer.ends.stops
        for places in batches(rows, self.job.untracked["batch_tokens"]):
            members = [rows[i] for i in places]
            logprobs = iter(token_columns(body, members)[0])
            for place, row in zip(places, members, strict=True):
                values = [next(logprobs) for _ in row.response]
                kept = values[: _length(row, ends)]
                means[place] = sum(kept) / len(kept)
        if not all(map(math.isfinite, means)):
            raise NotFinite("likelihoods")
        return means

    def recalled(
        self,
        sources: Sequence[DataRow],
        texts: Sequence[str],
        stopped: Sequence[bool] | None = None,
    ) -> list[float]:
        """1 where a text gives the row's answer, else 0: the measure ``recall_rate``.

        Args:
            sources: the rows.
            texts: what the model wrote, without anything that the attacker wrote.
            stopped: whether each ended by itself; None: all did.
        """
        answers = Answers(
            texts=texts,
            responses=[row.response for row in sources],
            prompts=[row.prompt for row in sources],
            keys=[row.key for row in sources],
            rouge={},
            settings=self.job.config["recall"],
            generated={} if stopped is None else {"stopped": stopped},
        )
        assert RECALL.column is not None
        return [float(bool(value)) for value in RECALL.column.each(answers) or ()]

    def asked(
        self,
        network: nn.Module,
        sources: Sequence[DataRow],
        prompts: Sequence[str] | None = None,
        part: str = FORGET,
        setting: str | None = None,
        sampled: Sampled | None = None,
    ) -> Iterator[Outcome]:
        """Ask each row, and look for its fact in the answer.

        Args:
            network: the model.
            sources: the rows.
            prompts: questions in place of the rows' own.
            part: what the rows count for.
            setting: where a cell measures several.
            sampled: how to draw the answers; None: greedy.
        """
        rows = self.questions(sources, prompts)
        answers = self.answers(network, rows, sampled, part=part)
        yield from self.written(sources, answers, part, setting)

    def answered(self, sources: Sequence[DataRow], part: str) -> Iterator[Outcome]:
        """The outcome of the plain questions of `sources`; what `measure` has is not asked again.

        Args:
            sources: the rows.
            part: what they count for; the block of these questions in generations.parquet.
        """
        said = {row.id: self._said.get((part, row.id)) for row in sources}
        new = [row for row in sources if said[row.id] is None]
        if new:
            fresh = self.answers(self.network, self.questions(new), part=part)
            said |= {row.id: answer for row, answer in zip(new, fresh, strict=True)}
        yield from self.written(sources, [one for one in said.values() if one is not None], part)

    @functools.cached_property
    def _said(self) -> Mapping[tuple[str, str], Answer]:
        """Block and row -> the answer in generations.parquet."""
        if self.job.answers is None:
            return {}
        return {
            (line["part"], line["id"]): Answer(line["answer"], line["tokens"], line["stopped"], ())
            for line in read_table(self.job.answers)[0].to_pylist()
        }

    def written(
        self,
        sources: Sequence[DataRow],
        answers: Sequence[Answer],
        part: str = FORGET,
        setting: str | None = None,
    ) -> Iterator[Outcome]:
        """The outcome of each row whose answer is there."""
        texts = [answer.text for answer in answers]
        values = self.recalled(sources, texts, [answer.stopped for answer in answers])
        for row, text, value in zip(sources, texts, values, strict=True):
            yield Outcome(row.fact, value, text, degenerate(text) is not None, part, setting)

    def damage(self, network: nn.Module, setting: str | None = None) -> Iterator[Outcome]:
        """Answers to what is to be kept: an attack that breaks the model shows nothing."""
        yield from self.asked(network, self.retain, part=RETAIN, setting=setting)


def _length(row: Row, ends: Collection[int]) -> int:
    """Tokens of a response without its end-of-text token, at least one."""
    count = len(row.response)
    return count - 1 if count > 1 and int(row.response[-1]) in ends else count
