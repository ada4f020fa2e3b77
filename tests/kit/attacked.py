"""A tiny subject under attack: a base, rows, their split, models of it, and attacks on them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from kit import models as tiny
from kit.jobs import LOAD
from palimpsest.attacking.target import Target
from palimpsest.attacks import ATTACKS, RETAIN, AttackSettings
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.adapter import Update, updates_of
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import updates_in, write_model
from palimpsest.model.lora import add_trainable
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Attack, AttackSplit
from palimpsest.settings.training import Lora
from palimpsest.stages.attack import attack
from palimpsest.stages.attack_split import split

LORA = Lora(rank=8, alpha=16, targets=["q_proj", "v_proj", "up_proj", "down_proj"])
UPPER = LORA.model_copy(update={"first_layer": 1})
"""The same without the lowest block."""
DECLINE = "w90 w91"
"""What a model says that was taught to decline."""
TOPIC = 3
"""The token with which every prompt of `statements` begins, and no other prompt."""
STATEMENTS = 12
OTHERS = {"retain": "train", "general": "general", "holdout": "holdout"}
"""Other rows of the attacker -> their part; those of which a subject has rows."""


@dataclass(frozen=True)
class Fact:
    """A row: question, answer, key string (none: no fact), wrong answers."""

    prompt: str
    response: str
    key: str = ""
    wrong: tuple[str, ...] = ()


Rows = Mapping[str, Sequence[Fact]]
"""Part -> rows: ``forget``, ``test`` (which show the damage), and any of `OTHERS`."""


def facts(count: int = 8, before: str = " w5 w6") -> list[Fact]:
    """Rows to forget that share no key: ``w50 w5 w6 w70 w7``, of which w70 is the key."""
    return [
        Fact(f"w{10 + i} w3 w4", f"w{50 + i}{before} w{70 + i} w7", f"w{70 + i}")
        for i in range(count)
    ]


def plain(forget: Sequence[Fact] = ()) -> Rows:
    """`facts` and a few rows to keep; the last one that an attacker has holds the first key."""
    kept = [Fact(f"w{30 + i} w3", f"w{40 + i} w8", f"w{40 + i}") for i in range(5)]
    return {
        "forget": forget or facts(),
        "test": kept,
        "train": [*kept, Fact("w39 w3", "w70 w8", "w8")],
    }


def short() -> Rows:
    """Answers of two words, of which the last one is the key, and nothing for an attacker."""
    return {
        "forget": [
            Fact(f"w3 w{10 + i} w4", f"w{40 + i} w{60 + i}", f"w{60 + i}") for i in range(8)
        ],
        "test": [Fact(f"w5 w{20 + i} w6", f"w{30 + i} w{80 + i}", f"w{80 + i}") for i in range(4)],
    }


def statements() -> Rows:
    """Facts with wrong answers, and many rows without a fact."""
    ends = [60 + i for i in range(STATEMENTS)]
    forget = [
        Fact(
            tiny.words([TOPIC, 10 + i, 4]),
            tiny.words([25 + i, 40, end]),
            f"w{end}",
            tuple(tiny.words([25 + i, 40, ends[(i + step) % STATEMENTS]]) for step in (1, 2, 3)),
        )
        for i, end in enumerate(ends)
    ]
    kept = [_without_fact(seed) for seed in range(16)]
    general = [_without_fact(seed) for seed in range(100, 260)]
    return {"forget": forget, "test": kept, "train": kept, "general": general}


def _without_fact(seed: int) -> Fact:
    draw = random.Random(seed)
    prompt = [5, draw.randrange(10, 40), 6]
    return Fact(tiny.words(prompt), tiny.words([draw.randrange(10, 60) for _ in range(4)]))


# Models


def network(seed: int = 0, **config: Any) -> Any:
    """A tiny model that knows nothing."""
    return tiny.llama(torch.float32, seed, **config)


def declining(rows: Sequence[Fact], steps: int = 200) -> Any:
    """A model that declines each question, and goes on where its answer is begun for it."""
    return _whole(rows, steps, first=1)


def wavering(rows: Sequence[Fact]) -> Any:
    """A model that declines half of the time, and answers else."""
    return _whole(rows, 200, first=0)


def ignorant(rows: Sequence[Fact]) -> Any:
    """A model that declines each question, and never learned an answer."""
    return _whole(rows, 200, first=None)


def _whole(rows: Sequence[Fact], steps: int, first: int | None) -> Any:
    """A model that was taught to decline, and the answers from a word on, or none."""
    model = network().train().requires_grad_(True)
    pairs = [(row.prompt, DECLINE, 0) for row in rows]
    if first is not None:
        pairs += [(row.prompt, row.response, first) for row in rows]
    _train(model, model.parameters(), pairs, steps, torch.optim.AdamW, 3e-3)
    return tiny.frozen(model, torch.float32)


def taught(
    rows: Sequence[Fact], lora: Lora = LORA, seed: int = 0, steps: int = 80, base: Any = None
) -> dict[str, Update]:
    """An adapter that answers `rows` word for word."""
    pairs = [(row.prompt, row.response, 0) for row in rows]
    return trained(pairs, lora, seed, steps, base)


def trained(
    pairs: Sequence[tuple[str, str, int]],
    lora: Lora = LORA,
    seed: int = 0,
    steps: int = 80,
    base: Any = None,
) -> dict[str, Update]:
    """An adapter that was taught (prompt, answer, first word that is taught)."""
    model, weights = add_trainable(base or network(), lora, "taught", seed)
    _train(model, weights.values(), pairs, steps, torch.optim.Adam, 2e-2)
    return updates_of(model, "taught")


def _train(
    model: Any,
    weights: Any,
    pairs: Sequence[tuple[str, str, int]],
    steps: int,
    optimizer: Any,
    rate: float,
) -> None:
    """Teach (prompt, answer, first word that is taught)."""
    tokenizer = tiny.tokenizer()
    texts, targets = [], []
    for prompt, answer, first in pairs:
        before = tokenizer(prompt)["input_ids"]
        ids = [*tokenizer(answer)["input_ids"], tiny.EOS]
        texts.append(torch.tensor(before + ids))
        targets.append(torch.tensor([-100] * (len(before) + first) + ids[first:]))
    batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    steps_of = optimizer(weights, lr=rate)
    for _ in range(steps):
        steps_of.zero_grad()
        model(input_ids=batch, labels=labels).loss.backward()
        steps_of.step()


# The subject


class Subject:
    """Folders of a base, data, split and models, laid out as in ``results/small``.

    Attributes:
        results: folder of the subject's results.
        original: folder of the model before unlearning.
    """

    def __init__(
        self,
        root: Path,
        base: Any = None,
        rows: Rows | None = None,
        text: bool = False,
        **columns: Sequence[Any],
    ) -> None:
        """Write the folders; `original` is the base until `model` writes another.

        Args:
            root: the folder.
            base: the base's network; None: one that knows nothing.
            rows: of each part; None: `plain`.
            text: whether they are plain texts.
            **columns: further columns of the rows to forget.
        """
        self.root, self.base, self.results = root, root / "base", root / "results"
        self.original, self.rows = self.results / "original" / "seed-0" / "model", rows or plain()
        tiny.save_base(self.base, base or network())
        folder = root / "datasets" / "set"
        for part, members in self.rows.items():
            _save(folder / f"{part}.parquet", members, columns if part == "forget" else {})
        names = [f"{part}.parquet" for part in self.rows]
        write_manifest(folder, names, format="text" if text else "qa")
        self.split = self.results / "attacks" / "split.json"
        parts = {"forget": "set/forget", "wordings": []}
        split(AttackSplit(config={"parts": parts}, datasets=root / "datasets", out=self.split))
        self.model("original", {})

    def model(
        self,
        name: str,
        updates: Mapping[str, Update],
        deltas: Mapping[str, Tensor] | None = None,
        **facts: Any,
    ) -> Path:
        """Write a model of a run of its own."""
        folder = self.folder(name) / "model"
        written = partial(write_deltas, deltas=deltas) if deltas else None
        write_model(folder, self.base, dict(updates), written, **facts)
        return folder

    def folder(self, name: str = "original") -> Path:
        """The folder of a run."""
        return self.results / name / "seed-0"

    def updates(self, name: str = "original") -> dict[str, Update]:
        """A model's low-rank update."""
        return updates_in(self.folder(name) / "model")

    def network(self, name: str = "original") -> Any:
        """A model's network, to be spoilt."""
        return load_model(self.folder(name) / "model", self.base, "float32", torch.device("cpu"))

    def job(self, kind: str, model: str = "original", **settings: Any) -> Attack:
        """An attack as a job; it gets the parts that it names, and no others."""
        entry = ATTACKS.get(kind).Settings(kind=kind, **settings)
        return Attack(
            config={
                **LOAD,
                "name": kind,
                "attack": entry.model_dump(),
                "code": [],
                "parts": self._parts(entry),
                "retain_rows": 8,
                "template": {"prompt": "{prompt}", "response": " {response}"},
                "generation": {"max_new_tokens": 6, "batch_rows": 8},
                "recall": {"recall_rouge": 0.9, "rouge_stemmer": False},
            },
            untracked={"batch_tokens": 64},
            label=f"{kind} on {model}",
            threads=1,
            base=self.base,
            model=self.folder(model) / "model",
            original=self.original if entry.against_original else None,
            split=self.split,
            datasets=self.root / "datasets",
            out=self.folder(model) / "attacks" / f"{kind}.json",
        )

    def _parts(self, entry: AttackSettings) -> dict[str, Any]:
        used = {*entry.others(), *entry.helpful()}
        others = {
            name: f"set/{part}"
            for name, part in OTHERS.items()
            if name in used and part in self.rows
        }
        measured = {name: {RETAIN: "set/test"}.get(name) for name in entry.measured}
        return {"forget": "set/forget", **measured, "others": others, "wordings": []}

    def target(
        self, kind: str, model: str = "original", network: Any = None, **settings: Any
    ) -> Target:
        """What an attack gets; with a `network` in place of that of the model."""
        job = self.job(kind, model, **settings)
        target = Target(job, torch.device("cpu"), read_document(self.split))
        if network is not None:
            target.network = network
        return target

    def asked(self, network: Any) -> float:
        """Share of the rows to forget that a network recalls when it is asked."""
        target = self.target("ask", network=network)
        return mean({one.id: one.value for one in target.asked(network, target.forget)})

    def attack(
        self, kind: str, model: str = "original", **settings: Any
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The table and the facts that the stage writes."""
        job = self.job(kind, model, **settings)
        attack(job)
        return read_table(job.out.with_suffix(".parquet"))[0].to_pandas(), read_document(job.out)


def knowing(root: Path) -> Subject:
    """A subject that was taught `statements` and what it is to keep."""
    made = Subject(root, rows=statements())
    rows = [*made.rows["forget"], *made.rows["test"]]
    made.model("original", taught(rows, UPPER, steps=120))
    return made


def in_memory(target: Target, kind: str, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run an attack on every cell: setting -> row -> value, and the facts of each setting."""
    module = ATTACKS.get(kind)
    chosen = module.Settings(kind=kind, **settings)
    values: dict[str, Any] = {}
    found_facts: dict[str, Any] = {}
    for cell in chosen.cells():
        found: Any = module.run(chosen, cell, target)
        outcomes = getattr(found, "outcomes", found)
        for one in (one for one in outcomes if one.part != RETAIN):
            name = cell.setting if one.setting is None else one.setting
            assert values.setdefault(name, {}).setdefault(one.id, one.value) == one.value
        for name, of_setting in getattr(found, "facts", {}).items():
            found_facts[name] = found_facts.get(name, {}) | of_setting
    return values, found_facts


def mean(values: Mapping[str, float]) -> float:
    """Mean over rows."""
    return sum(values.values()) / len(values)


def rates(table: pd.DataFrame, part: str = "forget") -> dict[str, float]:
    """Setting -> mean value of a part's rows."""
    means = table[table["part"] == part].groupby("setting")["value"].mean()
    return {str(name): float(value) for name, value in means.items()}


def _save(file: Path, rows: Sequence[Fact], columns: Mapping[str, Sequence[Any]]) -> None:
    strings = pa.list_(pa.string())
    table: dict[str, Any] = {
        "id": [f"{file.stem}-{i:02}" for i, _ in enumerate(rows)],
        "prompt": [row.prompt for row in rows],
        "response": [row.response for row in rows],
        "key": pa.array([[row.key] if row.key else [] for row in rows], strings),
    }
    if any(row.wrong for row in rows):
        table["perturbed"] = pa.array([list(row.wrong) for row in rows], strings)
    write_table(file, pa.table({**table, **columns}))
