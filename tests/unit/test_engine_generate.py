"""Greedy answers: batches, stopping."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.engine import generate
from palimpsest.engine.generate import Sampled, answer, pad_left
from palimpsest.engine.rows import Row

ROWS = tiny.rows([(3, 1), (9, 1), (5, 1), (5, 1), (14, 1), (2, 1)])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = tiny.tokenizer()
    made.pad_token = made.eos_token
    return made


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
def test_answers_in_a_padded_batch_are_those_of_each_prompt_alone(
    build: Any, tokenizer: Any
) -> None:
    model = build(torch.float32)
    together = answer(model, tokenizer, ROWS, 12, batch_rows=4)
    assert together == [answer(model, tokenizer, [row], 12, batch_rows=1)[0] for row in ROWS]
    assert len({a.text for a in together}) > 1


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
def test_what_prompts_have_in_common_is_read_once_and_changes_no_answer(
    build: Any, tokenizer: Any
) -> None:
    model = build(torch.float64)
    first = tiny.rows([(19, 1)], seed=7)[0].prompt
    longer = [Row(r.id, torch.cat([first, r.ids]), 19 + r.prompt_length) for r in ROWS]
    plain = answer(model, tokenizer, longer, 8, 3)
    read: list[int] = []
    module = model.get_input_embeddings()
    module.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    assert answer(model, tokenizer, longer, 8, 3, shared=19) == plain
    assert read.count(19) == 2, "once for each of the batches"
    assert len({found.text for found in plain}) > 1


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
def test_equal_prompts_are_read_once_which_changes_no_answer(build: Any, tokenizer: Any) -> None:
    model = build(torch.float64)
    often = [row for row in ROWS for _ in range(4)]
    for how in (None, Sampled(1.0, 1.0, 3)):
        plain = answer(model, tokenizer, often, 8, 8, sampled=how)
        assert answer(model, tokenizer, often, 8, 8, sampled=how, shared=None) == plain
    assert len({found.text for found in plain}) > len(ROWS), "they are drawn"


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
def test_rows_that_have_ended_leave_their_batch_and_change_no_answer(
    build: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(torch.bfloat16)
    free = answer(model, tokenizer, ROWS, 16, 8)
    words = [word for found in free for word in found.text.split()[3:6]]
    stopping = tiny.tokenizer()
    stopping.pad_token, stopping.eos_token = "<unk>", max(words, key=words.count)
    read: list[int] = []
    module = model.get_input_embeddings()
    module.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    whole, rows = answer(model, stopping, ROWS, 16, 8), sum(read)
    assert len({found.tokens for found in whole}) > 1
    read.clear()
    monkeypatch.setattr(generate, "LEAVE_AFTER", 2)
    assert answer(model, stopping, ROWS, 16, 8) == whole
    assert sum(read) < rows


def test_answers_are_the_most_likely_token_each_time(tokenizer: Any) -> None:
    model = tiny.llama(torch.float32)
    for row, found in zip(ROWS, answer(model, tokenizer, ROWS, 5, 3), strict=True):
        ids = row.prompt.tolist()
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tiny.EOS:
                break
        assert found.text == tiny.words(ids[len(row.prompt) :])


@pytest.mark.parametrize("named_by", ["tokenizer", "generation config"])
def test_an_answer_stops_at_the_end_token(tokenizer: Any, named_by: str) -> None:
    model = tiny.llama(torch.float32)
    model.generation_config.eos_token_id = None
    row = ROWS[1]
    free = answer(model, tokenizer, [row], 8, 1)[0]
    said = free.text.split()
    assert (free.tokens, free.stopped, len(said)) == (8, False, 8)
    stop = next(word for i, word in enumerate(said) if i and word not in said[:i])
    before = said.index(stop)
    other = tiny.tokenizer()
    other.pad_token = "<unk>"
    if named_by == "tokenizer":
        other.eos_token = stop
    else:
        model.generation_config.eos_token_id = [int(stop[1:]), 0]
    found = answer(model, other, [ROWS[4], row], 8, 2)[1]
    assert (found.text, found.stopped) == (" ".join(said[:before]), True)
    assert found.tokens == before + 1, "the end token counts"


def test_finished_batches_are_reported(tokenizer: Any) -> None:
    reports: list[tuple[int, int]] = []
    answers = answer(
        tiny.llama(torch.float32), tokenizer, ROWS, 3, 4, lambda rows, n: reports.append((rows, n))
    )
    assert [rows for rows, _ in reports] == [4, 6]
    assert sum(n for _, n in reports) == sum(a.tokens for a in answers)


def test_sampled_answers_follow_their_seed(tokenizer: Any) -> None:
    model = tiny.llama(torch.float32)

    def draw(seed: int, temperature: float = 1.0, top_p: float = 1.0) -> list[str]:
        how = Sampled(temperature, top_p, seed)
        return [a.text for a in answer(model, tokenizer, ROWS, 6, 3, sampled=how)]

    greedy = [a.text for a in answer(model, tokenizer, ROWS, 6, 3)]
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != greedy
    assert draw(1, temperature=1e-4) == greedy
    assert draw(1, top_p=1e-6) == greedy


def test_the_ids_of_an_answer_are_its_tokens_without_the_end(tokenizer: Any) -> None:
    for found in answer(tiny.llama(torch.float32), tokenizer, ROWS, 8, 3):
        assert tiny.words(found.ids) == found.text
        assert len(found.ids) == found.tokens - found.stopped


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = pad_left([torch.tensor([5, 6, 7]), torch.tensor([8])], pad=0, length=4)
    assert ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert mask.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]


def test_the_head_is_read_once_for_all_rows(tokenizer: Any) -> None:
    """In bfloat16 on a CPU a slice of the states would have it copied for every row."""
    model = tiny.llama(torch.bfloat16, vocab_size=5000)
    head = model.lm_head
    with torch.profiler.profile(profile_memory=True) as profile:
        answer(model, tokenizer, ROWS, 2, batch_rows=6)
    most = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert most < 2 * head.weight.nbytes
    assert not head._forward_pre_hooks
