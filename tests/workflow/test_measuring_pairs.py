"""What measuring once and in batches saves, against the plain form: pairs of one run, same results.

Figures are printed: ``pytest -s tests/workflow/test_measuring_pairs.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kit.copies import REPO
from palimpsest.config.schema import Template
from palimpsest.data.tokens import load_tokenizer as load_base_tokenizer
from palimpsest.data.tokens import tokenize_pairs
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.metrics.teacher_forced import teacher_forced
from palimpsest.model.base import load_base, load_tokenizer
from palimpsest.stages.measure import likelihood, lines_of

pa = pytest.importorskip("pyarrow")
MIN_K = 0.2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(embedded_model: Any) -> Any:
    return load_base(embedded_model, "float32", set_up(None), False).eval()


@pytest.fixture(scope="module")
def tokenizer(embedded_model: Any) -> Any:
    return load_tokenizer(embedded_model, False)


@pytest.fixture(scope="module")
def rows(embedded_model: Any) -> list[Row]:
    """32 questions of the general rows."""
    lines = (REPO / "resources/general/general.jsonl").read_text(encoding="utf-8").splitlines()[:32]
    read = [json.loads(line) for line in lines]
    table = pa.table(
        {"id": [f"row-{n}" for n in range(len(read))]}
        | {name: [row[name] for row in read] for name in ("prompt", "response")}
    )
    found, _ = tokenize_pairs(table, load_base_tokenizer(embedded_model), Template(), "general")
    return [
        Row(row["id"], torch.tensor(row["input_ids"]), row["prompt_length"])
        for row in found.to_pylist()
    ]


def test_batched_answers_are_those_of_each_prompt_alone_three_times_as_fast(
    model: Any, tokenizer: Any, rows: list[Row]
) -> None:
    answer(model, tokenizer, rows[:2], 2, 2)
    began = time.perf_counter()
    together = answer(model, tokenizer, rows, 16, batch_rows=32)
    between = time.perf_counter()
    alone = answer(model, tokenizer, rows, 16, batch_rows=1)
    batched, single = between - began, time.perf_counter() - between
    tokens = sum(one.tokens for one in together)
    print(f"\n{tokens / batched:.0f} tokens/s in batches, {tokens / single:.0f} one by one")
    assert together == alone
    assert single > 3 * batched


# The plain form: one forward pass with all logits for every metric, each by its definition.


def _logits(model: Any, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the response without its end-of-text token: logits [tokens, vocabulary], labels."""
    with torch.no_grad():
        logits = model(row.ids[None]).logits[0, row.prompt_length - 1 : -1]
    keep = row.response != model.config.eos_token_id
    return logits[keep].double(), row.response[keep]


def _logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]


def _lowest(values: torch.Tensor) -> float:
    return float(values.sort().values[: max(1, int(len(values) * MIN_K + 1e-9))].mean())


def _standard(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logprobs = logits.log_softmax(-1)
    mean = (logprobs.exp() * logprobs).sum(-1)
    sd = ((logprobs.exp() * logprobs.square()).sum(-1) - mean.square()).sqrt()
    return (_logprobs(logits, labels) - mean) / sd


def _extraction_strength(logits: torch.Tensor, labels: torch.Tensor) -> float:
    hits = (logits.argmax(-1) == labels).tolist()
    known = next((n for n, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return known / len(hits)


PLAIN: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "accuracy": lambda x, y: float((x.argmax(-1) == y).double().mean()),
    "exact_memorization": lambda x, y: float((x.argmax(-1) == y).double().mean()),
    "extraction_strength": _extraction_strength,
    "mean_logprob": lambda x, y: float(_logprobs(x, y).mean()),
    "perplexity": lambda x, y: float((-_logprobs(x, y).mean()).exp()),
    "probability": lambda x, y: float(_logprobs(x, y).mean().exp()),
    "min_k": lambda x, y: _lowest(_logprobs(x, y)),
    "min_k_plus_plus": lambda x, y: _lowest(_standard(x, y)),
}


def test_one_pass_gives_every_metric_of_a_pass_for_each_five_times_cheaper(
    model: Any, tokenizer: Any, rows: list[Row]
) -> None:
    chosen = rows[:16]
    _logits(model, chosen[0])
    began = time.process_time()
    table = likelihood(Body(model), lines_of({"general": chosen}), 2048, tokenizer, "pairs")
    found = teacher_forced(table, [row.id for row in chosen], "pairs", MIN_K)
    between = time.process_time()
    plain = {
        name: np.array([metric(*_logits(model, row)) for row in chosen])
        for name, metric in PLAIN.items()
    }
    once, each = between - began, time.process_time() - between
    print(f"\n{once:.1f} s of CPU in one pass, {each:.1f} s in {len(PLAIN)} passes")
    for name, values in plain.items():
        assert getattr(found, name) == pytest.approx(values, rel=1e-3, abs=1e-4), name
    assert each > 5 * once
