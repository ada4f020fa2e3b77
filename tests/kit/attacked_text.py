"""A tiny subject under attack: a base, rows with key strings, models, the split, the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from kit import models as tiny
from kit.jobs import LOAD, Work
from palimpsest.attacking.target import Target
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.pipeline.stages import Attack, AttackSplit

PARTS = {"forget": "set/forget", "retain": "set/test", "others": {"retain": "set/train"}}
DECLINE = "w90 w91"
"""What a model says that was taught to decline."""


@dataclass(frozen=True)
class Fact:
    """A row: question, answer and key string."""

    prompt: str
    response: str
    key: str


def facts(count: int = 8, before: str = " w5 w6") -> list[Fact]:
    """Rows to forget that share no key: ``w50 w5 w6 w70 w7``, of which w70 is the key."""
    return [
        Fact(f"w{10 + i} w3 w4", f"w{50 + i}{before} w{70 + i} w7", f"w{70 + i}")
        for i in range(count)
    ]


def others(count: int = 6) -> list[Fact]:
    """Rows to keep; the last one holds the first key of `facts`."""
    plain = [Fact(f"w{30 + i} w3", f"w{40 + i} w8", f"w{40 + i}") for i in range(count - 1)]
    return [*plain, Fact("w39 w3", "w70 w8", "w8")]


def network(seed: int = 0, **config: Any) -> Any:
    """A tiny model that knows nothing."""
    return tiny.llama(torch.float32, seed, **config)


def declining(rows: Sequence[Fact], steps: int = 200) -> Any:
    """A model that declines each question, and goes on where its answer is begun for it."""
    return _taught(rows, steps, first=1)


def wavering(rows: Sequence[Fact]) -> Any:
    """A model that declines half of the time, and answers else."""
    return _taught(rows, 200, first=0)


def ignorant(rows: Sequence[Fact]) -> Any:
    """A model that declines each question, and never learned an answer."""
    return _taught(rows, 200, first=None)


def _taught(rows: Sequence[Fact], steps: int, first: int | None) -> Any:
    """A model that was taught to decline, and the answers from a word on, or none."""
    model = network().train().requires_grad_(True)
    tokenizer = tiny.tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts, targets = [], []
    for row in rows:
        prompt = tokenizer(row.prompt)["input_ids"]
        learned = [] if first is None else [(row.response, first)]
        for answer, begin in [(DECLINE, 0), *learned]:
            ids = [*tokenizer(answer)["input_ids"], tiny.EOS]
            texts.append(torch.tensor(prompt + ids))
            targets.append(torch.tensor([-100] * (len(prompt) + begin) + ids[begin:]))
    batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=batch, labels=labels).loss.backward()
        optimizer.step()
    return tiny.frozen(model, torch.float32)


@dataclass(frozen=True)
class Bench:
    """Attacks on one model."""

    work: Work
    parts: dict[str, Any]
    rows: int | None = None
    """Rows to forget that are measured; None: all."""

    def config(self, kind: str, **settings: Any) -> dict[str, Any]:
        """The slice of an attack."""
        return {
            **LOAD,
            "name": kind,
            "attack": {"kind": kind, **settings},
            "code": [1, "code"],
            "parts": self.parts,
            "rows": self.rows,
            "retain_rows": 4,
            "template": {"prompt": "{prompt}", "response": " {response}"},
            "generation": {"max_new_tokens": 6, "batch_rows": 5},
            "recall": {"recall_rouge": 0.9, "rouge_stemmer": True},
        }

    def job(self, kind: str, **settings: Any) -> Attack:
        """The attack as a job."""
        root = self.work.root
        return Attack(
            config=self.config(kind, **settings),
            untracked={"batch_tokens": 200},
            label=kind,
            threads=1,
            base=root / "base",
            model=root / "original",
            original=root / "original",
            split=root / "split.json",
            datasets=root / "datasets",
            out=root / "attacks" / f"{kind}.json",
        )

    def target(self, kind: str, **settings: Any) -> Target:
        """What the attack gets."""
        job = self.job(kind, **settings)
        return Target(job, torch.device("cpu"), read_document(job.split))

    def attack(
        self, kind: str, measured: Path | None = None, **settings: Any
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The table and the facts that the stage writes."""
        out = self.work.run(
            Attack,
            f"attacks/{kind}.json",
            self.config(kind, **settings),
            untracked={"batch_tokens": 200},
            model=self.work.root / "original",
            original=self.work.root / "original",
            split=self.work.root / "split.json",
            measured=measured,
        )
        return read_table(out.with_suffix(".parquet"))[0].to_pandas(), read_document(out)


def bench(
    root: Path,
    model: Any = None,
    rows: Sequence[Fact] = (),
    text: bool = False,
    **columns: Sequence[Any],
) -> Bench:
    """A model and its rows in a folder.

    Args:
        root: the folder.
        model: the attacked one; None: one that knows nothing.
        rows: those to forget; none: `facts`.
        text: whether they are plain texts.
        **columns: further columns of the rows to forget.
    """
    kept = others()
    tiny.save_base(root / "base", model or network())
    unchanged, _ = tiny.with_lora(network(), moved=False)
    write_adapter(root / "adapter", updates_of(unchanged, "acquired"), "base")
    write_manifest(root / "adapter", FILES)
    folder = root / "datasets" / "set"
    _save(folder, {"train": kept, "test": kept[:-1]})
    _save(folder, {"forget": rows or facts()}, **columns)
    names = [f"{name}.parquet" for name in ("forget", "train", "test")]
    write_manifest(folder, names, format="text" if text else "qa")
    Work(root).describe("original", root / "adapter")
    split = {"forget": "set/forget", "wordings": [], "others": PARTS["others"]}
    Work(root).run(AttackSplit, "split.json", {"parts": split})
    return Bench(Work(root), PARTS)


def _save(folder: Path, parts: dict[str, Sequence[Fact]], **columns: Any) -> None:
    for part, rows in parts.items():
        table = {
            "id": [f"{part}-{i:02}" for i, _ in enumerate(rows)],
            "prompt": [row.prompt for row in rows],
            "response": [row.response for row in rows],
            "key": pa.array([[row.key] for row in rows]),
        }
        write_table(folder / f"{part}.parquet", pa.table({**table, **columns}))
