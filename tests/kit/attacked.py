"""A small base, rows that it was taught through an adapter, and attacks on models of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from kit import models as tiny
from kit.jobs import LOAD, TEMPLATE
from palimpsest.attacks import ATTACKS
from palimpsest.engine.rows import Row
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.adapter import Update, updates_of
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.model.lora import add_trainable
from palimpsest.pipeline.stages import Attack, AttackSplit
from palimpsest.settings.training import Lora
from palimpsest.stages.attack import attack
from palimpsest.stages.attack_split import split

LORA = Lora(rank=8, alpha=16, targets=["q_proj", "v_proj", "up_proj", "down_proj"])
COUNT = 8
"""Rows to forget."""
CONFIG: dict[str, Any] = {
    **LOAD,
    "code": [],
    "parts": {"forget": "set/forget", "retain": "set/retain", "others": {}},
    "rows": None,
    "retain_rows": None,
    "template": TEMPLATE,
    "generation": {"max_new_tokens": 6, "batch_rows": 8},
    "recall": {"recall_rouge": 0.9, "rouge_stemmer": False},
}
"""Slice of an attack, but for the attack."""


def row(name: str, prompt: Sequence[int], response: Sequence[int]) -> Row:
    """A row that ends with the end token."""
    return Row(name, torch.tensor([*prompt, *response, tiny.EOS]), len(prompt))


PARTS = {
    "forget": [row(f"f{i}", [3, 10 + i, 4], [40 + i, 60 + i]) for i in range(COUNT)],
    "retain": [row(f"r{i}", [5, 20 + i, 6], [30 + i, 80 + i]) for i in range(4)],
}
"""The last word of a response is its key, and stands nowhere else."""


@dataclass
class Attacked:
    """Folders of a base and of models of it, laid out as in ``results/small``."""

    root: Path
    datasets: Path = field(init=False)
    base: Path = field(init=False)
    results: Path = field(init=False)

    def __post_init__(self) -> None:
        self.datasets, self.base = self.root / "datasets", self.root / "base"
        self.results = self.root / "results"

    def model(
        self,
        name: str,
        updates: Mapping[str, Update],
        deltas: Mapping[str, Tensor] | None = None,
        **facts: Any,
    ) -> Path:
        """Write a model of a run of its own."""
        folder = self.results / name / "seed-0" / "model"
        written = partial(write_deltas, deltas=deltas) if deltas else None
        write_model(folder, self.base, dict(updates), written, **facts)
        return folder

    def attack(self, name: str, kind: str, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Attack a model: the table and the other file."""
        entry = ATTACKS.get(kind).Settings(kind=kind, **settings)
        model = self.results / name / "seed-0" / "model"
        out = model.parent / "attacks" / f"{kind}.json"
        job = Attack(
            config={**CONFIG, "name": kind, "attack": entry.model_dump()},
            label=f"{kind} on {name}",
            threads=1,
            base=self.base,
            model=model,
            original=self.results / "original" / "seed-0" / "model",
            split=self.results / "attacks" / "split.json",
            datasets=self.datasets,
            out=out,
        )
        attack(job)
        return read_table(out.with_suffix(".parquet"))[0].to_pandas(), read_document(out)


def rates(table: pd.DataFrame, part: str = "forget") -> dict[str, float]:
    """Setting -> mean value of a part's rows."""
    means = table[table["part"] == part].groupby("setting")["value"].mean()
    return {str(name): float(value) for name, value in means.items()}


def small(root: Path) -> Attacked:
    """A base that knows nothing, its data and their split."""
    work = Attacked(root)
    tiny.save_base(work.base, tiny.llama(torch.float32))
    for name, members in PARTS.items():
        columns = {
            "id": [one.id for one in members],
            "prompt": [tiny.words(one.prompt.tolist()) for one in members],
            "response": [tiny.words(one.response.tolist()) for one in members],
            "key": pa.array([[f"w{int(one.response[-2])}"] for one in members]),
        }
        write_table(work.datasets / "set" / f"{name}.parquet", pa.table(columns))
    write_manifest(work.datasets / "set", [f"{name}.parquet" for name in PARTS], format="qa")
    parts = {"forget": "set/forget", "wordings": [], "others": {}}
    out = work.results / "attacks" / "split.json"
    split(AttackSplit(config={"parts": parts}, datasets=work.datasets, out=out))
    return work


def taught(rows: Sequence[Row], lora: Lora = LORA, seed: int = 0) -> dict[str, Update]:
    """An adapter that answers `rows` word for word."""
    model, weights = add_trainable(tiny.llama(torch.float32), lora, "taught", seed)
    length = max(len(one.ids) for one in rows)
    ids = torch.stack([_padded(one.ids, length) for one in rows])
    wanted = torch.stack([_padded(_masked(one), length, -100) for one in rows])
    optimizer = torch.optim.Adam(weights.values(), lr=2e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=ids, labels=wanted).loss.backward()
        optimizer.step()
    return updates_of(model, "taught")


def _masked(one: Row) -> Tensor:
    ids = one.ids.clone()
    ids[: one.prompt_length] = -100
    return ids


def _padded(ids: Tensor, length: int, value: int = 0) -> Tensor:
    return torch.nn.functional.pad(ids, (0, length - len(ids)), value=value)
