"""Measuring once and in batches gives the plain form's results with less work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kit.copies import REPO
from palimpsest.data.tokens import load_tokenizer as load_base_tokenizer
from palimpsest.data.tokens import tokenize_pairs
from palimpsest.engine.body import Body
from palimpsest.engine.device import resolve_dtype, set_up
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.rows import with_right_responses
from palimpsest.metrics.rows import computed
from palimpsest.metrics.teacher_forced import Reading, teacher_forced
from palimpsest.model.base import load_base, load_tokenizer
from palimpsest.model.lora import add_trainable
from palimpsest.settings.template import Template
from palimpsest.settings.training import Lora

pa = pytest.importorskip("pyarrow")
MIN_K = 0.2
TOKENS = 8
"""Most tokens of an answer."""

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
        together = answer(model, tokenizer, rows, TOKENS, batch_rows=32)
    with embedded(model) as single:
        alone = answer(model, tokenizer, rows, TOKENS, batch_rows=1)
    assert together == alone
    # Prompts of one padded length are answered together.
    longest: dict[int, int] = {}
    for row, one in zip(rows, together, strict=True):
        length = row.prompt_length // 16
        longest[length] = max(one.tokens, longest.get(length, 0))
    assert len(batched) == sum(longest.values()) < len(single) / 8
    assert len(single) == sum(one.tokens for one in together)


# In bfloat16 a number that is rounded otherwise changes every token after it.


@pytest.fixture(scope="module")
def changed(embedded_model: Any) -> Any:
    """The base in bfloat16 with an adapter, whose layers are apart."""
    device = set_up(None)
    if resolve_dtype("auto", device) != torch.bfloat16:
        pytest.skip("this machine has no bfloat16 instructions")
    plain = load_base(embedded_model, "bfloat16", device)
    lora = Lora(rank=8, alpha=8, targets=["q_proj", "v_proj", "down_proj"], first_layer=20)
    model, weights = add_trainable(plain, lora, "unlearned", 0)
    generator = torch.Generator().manual_seed(0)
    for weight in weights.values():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator)
    return model.requires_grad_(False).eval()


def test_answers_in_bfloat16_depend_neither_on_the_batch_nor_on_what_ran_before(
    changed: Any, tokenizer: Any, rows: list[Row]
) -> None:
    Body(changed)  # as measure does before it asks; `load_model` lets every stage do the same
    together = answer(changed, tokenizer, rows, TOKENS, batch_rows=32)
    assert len({one.text for one in together}) > len(rows) / 2
    for batch_rows in (7, 1):
        assert answer(changed, tokenizer, rows, TOKENS, batch_rows) == together
    assert answer(changed, tokenizer, rows[::-1], TOKENS, 24)[::-1] == together


def test_likelihoods_in_bfloat16_do_not_depend_on_the_batch(
    changed: Any, tokenizer: Any, rows: list[Row]
) -> None:
    by_size = [
        likelihood(
            Body(changed),
            with_right_responses({"general": rows}),
            size,
            {tokenizer.eos_token_id},
            "",
        )
        .to_pandas()
        .sort_values(["id", "position"], ignore_index=True)
        for size in (4096, 500, 200)
    ]
    for other in by_size[1:]:
        pd.testing.assert_frame_equal(other, by_size[0], check_exact=True)


def test_kept_prefixes_in_bfloat16_are_those_of_the_whole_pass(
    changed: Any, rows: list[Row]
) -> None:
    """So a term that compares the untrained model with the subject begins at exactly 0."""
    with torch.no_grad():
        whole = Body(changed).hidden(rows)
        body = Body(changed, first_trained=20)
        assert body.first_trained == 20
        body.keep(rows)
        for first in (0, 5):
            for found, expected in zip(body.hidden(rows[first:]), whole[first:], strict=True):
                assert torch.equal(found, expected)


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
    chosen = rows[:8]
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
