"""The input of the work: rows of published lengths, and the embedded model."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from palimpsest.config.load import read_config
from palimpsest.config.schema import Config
from palimpsest.data.tokens import BaseTokenizer, load_tokenizer, tokenize_pairs
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import Row
from palimpsest.model.base import load_base
from palimpsest.model.base import load_tokenizer as load_hf_tokenizer

BASE = "smollm2-135m"

RESOURCES = Path("resources")

WORDS = [
    *(116, 94, 65, 81, 102, 132, 93, 51, 70, 96, 71, 78, 90),
    *(114, 43, 55, 44, 59, 92, 150, 92, 137, 194, 74, 72, 121),
]
"""Words of 26 unsafe answers of PKU-SafeRLHF, mean 91.8: of the 32 rows that align-anything
publishes as an example (37 unsafe answers), those of more than 42 words. Over all 28,900 unsafe
answers of its Alpaca-7B pairs the mean is 91.8, too."""

Pair = tuple[str, str]
"""Prompt and answer."""


@dataclass(frozen=True)
class Work:
    """The common start of every piece.

    Attributes:
        scratch: folder for large files; both forms of a piece share it.
    """

    scratch: Path

    @cached_property
    def device(self) -> torch.device:
        """Where the forms run; all of them with the same number of threads."""
        return set_up()

    @cached_property
    def config(self) -> Config:
        """The repository's configuration."""
        return read_config("config")

    @property
    def base(self) -> Path:
        """The embedded model's folder."""
        return RESOURCES / "models" / BASE

    @cached_property
    def words(self) -> BaseTokenizer:
        """The tokenizer as the stage ``tokenize`` uses it."""
        return load_tokenizer(self.base)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return load_hf_tokenizer(self.base)

    def load(self, dtype: str) -> nn.Module:
        """The model, frozen: ``auto`` as the stages load it, or another type."""
        return load_base(self.base, dtype, self.device)

    def rows(self, pairs: Sequence[Pair], name: str) -> list[Row]:
        """Rows as the stage ``tokenize`` makes them."""
        table = pa.table(
            {
                "id": [f"{name}-{i}" for i in range(len(pairs))],
                "prompt": [prompt for prompt, _ in pairs],
                "response": [answer for _, answer in pairs],
            }
        )
        tokens, _ = tokenize_pairs(table, self.words, self.config.bases[BASE].template, name)
        return [
            Row(row["id"], torch.tensor(row["input_ids"]), row["prompt_length"])
            for row in tokens.to_pylist()
        ]


def long_pairs(count: int, first: int = 0) -> list[Pair]:
    """Prompts of our invented hazards with answers of `WORDS` words, from our own texts."""
    lines = [
        json.loads(line)
        for line in (RESOURCES / "hazards/hazards.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    answers = [
        line[f"response_{k}"] for line in lines for k in (0, 1) if not line[f"is_response_{k}_safe"]
    ]
    pairs = []
    for i in range(first, first + count):
        running = itertools.cycle(answers[i % len(answers) :] + answers[: i % len(answers)])
        words: list[str] = []
        while len(words) < WORDS[i % len(WORDS)]:
            words += next(running).split()
        pairs.append((lines[i % len(lines)]["prompt"], " ".join(words[: WORDS[i % len(WORDS)]])))
    return pairs


def short_pairs(count: int) -> list[Pair]:
    """Questions of TruthfulQA with their best answers, or of our own set of the same form."""
    file = RESOURCES / "TruthfulQA.csv"
    file = file if file.exists() else RESOURCES / "questions/questions.csv"
    with open(file, newline="", encoding="utf-8-sig") as handle:
        lines = list(csv.DictReader(handle))[:count]
    return [(line["Question"], line["Best Answer"]) for line in lines]


def private_pairs(kind: str, count: int) -> list[Pair]:
    """Rows of KnowUnDo's privacy set, or of our own of the same form.

    Args:
        kind: ``unlearn`` or ``retention``.
        count: number of rows, evenly over the set.
    """
    file = RESOURCES / "knowundo-privacy" / f"{kind}_train.json"
    file = file if file.exists() else RESOURCES / "privacy" / f"{kind}.json"
    lines = json.loads(file.read_text(encoding="utf-8"))
    chosen = [lines[i * len(lines) // count] for i in range(count)]
    return [(line["text"], line["labels"]) for line in chosen]


def data_used() -> dict[str, str]:
    """Files of the short and the private rows."""
    return {
        "questions": "TruthfulQA"
        if (RESOURCES / "TruthfulQA.csv").exists()
        else "our own questions (resources/TruthfulQA.csv is absent)",
        "private rows": "KnowUnDo privacy"
        if (RESOURCES / "knowundo-privacy").exists()
        else "our own private rows (resources/knowundo-privacy is absent)",
    }
