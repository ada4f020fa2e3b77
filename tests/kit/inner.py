"""A small model that was taught facts, and the rows of an attacker who looks inside of models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from kit import models as tiny
from kit.jobs import LOAD, TEMPLATE
from palimpsest.attacking.target import Target
from palimpsest.attacks import ATTACKS, RETAIN
from palimpsest.data.attack_split import Fact, attack_split
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.model.adapter import updates_of
from palimpsest.model.description import write_model
from palimpsest.model.lora import add_trainable
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Attack
from palimpsest.settings.training import Lora

FACTS = 12
"""Rows to forget; a prompt of three words, two words of the answer, and the key."""
LORA = Lora(rank=8, alpha=16, first_layer=1, targets=["q_proj", "v_proj", "up_proj", "down_proj"])
TOPIC = 3
"""The token with which every prompt to forget begins, and no other prompt."""


def fact(i: int) -> tuple[list[int], list[int]]:
    """Prompt and response of a row; its last word is the key, and stands nowhere else."""
    return [TOPIC, 10 + i, 4], [25 + i, 40, 60 + i]


def other(seed: int) -> tuple[list[int], list[int]]:
    """A row without a fact."""
    draw = random.Random(seed)
    return [5, draw.randrange(10, 40), 6], [draw.randrange(10, 60) for _ in range(4)]


def _table(name: str, pairs: Sequence[tuple[list[int], list[int]]]) -> pa.Table:
    wrong = [
        [tiny.words([*words[:-1], 60 + (i + step) % FACTS]) for step in (1, 2, 3)]
        for i, (_, words) in enumerate(pairs)
    ]
    facts = name == "forget"
    return pa.table(
        {
            "id": [f"{name}-{i}" for i in range(len(pairs))],
            "prompt": [tiny.words(prompt) for prompt, _ in pairs],
            "response": [tiny.words(words) for _, words in pairs],
            "key": pa.array([[f"w{words[-1]}"] if facts else [] for _, words in pairs]),
            "perturbed": pa.array(wrong if facts else [[] for _ in pairs]),
        }
    )


class Small:
    """A base, data, and a model that was taught the facts, in folders.

    Attributes:
        base: the base's folder.
        original: folder of the model that knows the facts.
    """

    def __init__(self, root: Path) -> None:
        """Write the folders below `root`."""
        self.root, self.base, self.original = root, root / "base", root / "original"
        tiny.save_base(self.base, tiny.llama(torch.float32))
        rows = {
            "forget": [fact(i) for i in range(FACTS)],
            "retain": [other(seed) for seed in range(16)],
            "general": [other(seed) for seed in range(100, 260)],
        }
        for name, pairs in rows.items():
            write_table(root / "data" / "set" / f"{name}.parquet", _table(name, pairs))
        write_manifest(root / "data" / "set", [f"{name}.parquet" for name in rows], format="qa")
        pairs = rows["forget"] + rows["retain"]
        write_model(self.original, self.base, _taught(pairs), None)

    def network(self) -> Any:
        """The model that knows the facts, to be spoilt."""
        return load_model(self.original, self.base, "float32", torch.device("cpu"))

    def target(self, network: Any, kind: str) -> Target:
        """What an attack on a network gets."""
        others = ("retain", "general")
        job = Attack(
            config={
                **LOAD,
                "name": kind,
                "attack": {"kind": kind},
                "parts": {
                    "forget": "set/forget",
                    "retain": "set/retain",
                    "others": {name: f"set/{name}" for name in others},
                },
                "rows": None,
                "retain_rows": 8,
                "template": TEMPLATE,
                "generation": {"max_new_tokens": 6, "batch_rows": 8},
                "recall": {"recall_rouge": 0.9, "rouge_stemmer": False},
            },
            untracked={"batch_tokens": 64},
            label=kind,
            threads=1,
            base=self.base,
            model=self.original,
            original=self.original,
            split=self.root / "split.json",
            datasets=self.root / "data",
            out=self.root / f"{kind}.json",
        )
        facts = [Fact(f"forget-{i}", f"forget-{i}", [f"w{60 + i}"], []) for i in range(FACTS)]
        split = attack_split(facts, {name: [] for name in others})
        target = Target(job, torch.device("cpu"), split)
        target.network = network
        return target


def attacked(target: Target, kind: str, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run an attack on every cell: setting -> row -> value, and the facts of each setting."""
    module = ATTACKS.get(kind)
    chosen = module.Settings(kind=kind, **settings)
    values: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for cell in chosen.cells():
        found: Any = module.run(chosen, cell, target)
        outcomes = getattr(found, "outcomes", found)
        for one in (one for one in outcomes if one.part != RETAIN):
            name = cell.setting if one.setting is None else one.setting
            assert values.setdefault(name, {}).setdefault(one.id, one.value) == one.value
        for name, fact_ in getattr(found, "facts", {}).items():
            facts[name] = facts.get(name, {}) | fact_
    return values, facts


def mean(values: dict[str, float]) -> float:
    """Mean over rows."""
    return sum(values.values()) / len(values)


def _taught(pairs: Sequence[tuple[list[int], list[int]]]) -> Any:
    """An adapter that gives these answers word for word."""
    model, weights = add_trainable(tiny.llama(torch.float32), LORA, "taught", 0)
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([*prompt, *words, tiny.EOS]) for prompt, words in pairs], batch_first=True
    )
    labels = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([-100] * len(prompt) + [*words, tiny.EOS]) for prompt, words in pairs],
        batch_first=True,
        padding_value=-100,
    )
    optimizer = torch.optim.Adam(weights.values(), lr=2e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return updates_of(model, "taught")
