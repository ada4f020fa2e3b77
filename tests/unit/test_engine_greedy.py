"""Greedy answers in batches that shrink."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.engine import generate, greedy

LENGTHS = [(4, 2), (7, 2), (3, 2), (20, 2), (5, 2), (18, 2), (6, 2), (9, 2), (11, 2)]


def tokenizer() -> Any:
    made = tiny.tokenizer()
    made.pad_token = made.eos_token
    return made


@pytest.mark.parametrize("batch_rows", [1, 4, 9])
@pytest.mark.parametrize("make", [tiny.llama, tiny.opt])
def test_the_answers_are_those_of_transformers(make: Any, batch_rows: int) -> None:
    """In float64, where no rounding can change a token; some end soon, some at the limit."""
    model, rows = make(torch.float64), tiny.rows(LENGTHS, seed=4, name="q")
    expected = generate.answer(model, tokenizer(), rows, 12, batch_rows)
    assert greedy.answer(model, tokenizer(), rows, 12, batch_rows) == expected


def test_rows_leave_the_batch_once_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny.llama(torch.float64), tiny.rows(LENGTHS[:4], seed=4, name="q")
    free = generate.answer(model, tokenizer(), rows, 12, 4)
    # A token that some of the answers have and others have not ends them.
    token = free[0].ids[1]
    monkeypatch.setattr(generate, "stop_ids", lambda *_: {tiny.EOS, token})
    sizes = []
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    counted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    expected = generate.answer(model, tokenizer(), rows, 12, 4)
    monkeypatch.setattr(model, "forward", counted)
    assert greedy.answer(model, tokenizer(), rows, 12, 4) == expected
    assert min(sizes) < max(sizes)


def test_what_lower_blocks_make_of_prompts_is_computed_once() -> None:
    """Two models that differ from block 2 on, asked one after the other."""
    rows = tiny.rows(LENGTHS, seed=4, name="q")
    models = [tiny.llama(torch.float64), tiny.llama(torch.float64)]
    for block in models[1].model.layers[2:]:
        block.mlp.down_proj.weight.data *= -1
    expected = [generate.answer(model, tokenizer(), rows, 12, 4) for model in models]
    assert expected[0] != expected[1]
    prompts, passes = greedy.Prompts(2), []
    for model in models:
        for number in (0, 2):
            attention = model.model.layers[number].self_attn
            attention.register_forward_hook(lambda *_, number=number: passes.append(number))
        found = greedy.answer(model, tokenizer(), rows, 12, 4, prompts=prompts)
        assert found == expected[models.index(model)]
    batches = len(generate.batches(rows, 4, 0))
    assert passes.count(2) - passes.count(0) == batches
