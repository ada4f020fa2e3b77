"""Measuring once and in batches gives the plain form's results with less work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from kit.copies import REPO
from palimpsest.data.tokens import load_tokenizer as load_base_tokenizer
from palimpsest.data.tokens import tokenize_pairs
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.rows import with_right_responses
from palimpsest.metrics.rows import computed
from palimpsest.metrics.teacher_forced import Reading, teacher_forced
from palimpsest.model.base import load_base, load_tokenizer
from palimpsest.settings.template import Template

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


@contextmanager
def embedded(model: Any) -> Iterator[list[int]]:
    """The number of tokens that each forward pass reads."""
    counts: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: counts.append(inputs[0].numel())
    )
    try:
        yield counts
    finally:
        handle.remove()


def test_batched_answers_are_those_of_each_prompt_alone_in_fewer_passes(
    model: Any, tokenizer: Any, rows: list[Row]
) -> None:
    with embedded(model) as batched:
        together = answer(model, tokenizer, rows, 16, batch_rows=32)
    with embedded(model) as single:
        alone = answer(model, tokenizer, rows, 16, batch_rows=1)
    assert together == alone
    assert len(batched) == max(one.tokens for one in together)
    assert len(single) == sum(one.tokens for one in together)


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


def test_one_pass_gives_every_metric_of_a_pass_for_each(
    model: Any, tokenizer: Any, rows: list[Row]
) -> None:
    chosen = rows[:16]
    body, evaluated = Body(model), with_right_responses({"general": chosen})
    with embedded(model) as once:
        table = likelihood(body, evaluated, 2048, {tokenizer.eos_token_id}, "pairs")
    tokens = teacher_forced(table, [row.id for row in chosen], "pairs")
    columns = computed(Reading(tokens, [""] * len(chosen), {"min_k": MIN_K}), "holdout")
    with embedded(model) as each:
        plain = {
            name: np.array([metric(*_logits(model, row)) for row in chosen])
            for name, metric in PLAIN.items()
        }
    for name, values in plain.items():
        assert columns[name] == pytest.approx(values, rel=1e-3, abs=1e-4), name
    assert sum(once) <= sum(map(len, chosen))
    assert sum(each) == len(PLAIN) * sum(map(len, chosen))
