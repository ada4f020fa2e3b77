"""Answers from vLLM: its settings, its process, and the real thing where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from kit import models as tiny
from palimpsest.engine import vllm_engine
from palimpsest.engine.generate import Answer, Sampled
from palimpsest.engine.vllm_engine import Limits, engine_settings, request_seeds, request_settings
from palimpsest.errors import UserError

ROWS = tiny.rows([(3, 1), (9, 1), (5, 1)])
LIMITS = Limits(longest_prompt=9, max_new_tokens=4)
DRAWN = Sampled(0.7, 0.9, seed=3)

STAND_IN = '''
"""The part of vLLM that is used. It repeats the last token of a prompt, the last prompt first."""
import os
from types import SimpleNamespace

class TokensPrompt(dict): pass
class SamplingParams:
    def __init__(self, max_tokens, **others): self.max_tokens = max_tokens

class LLM:
    def __init__(self, **settings):
        MOOD
        self.settings, self.llm_engine, self.queue, self.asked = settings, self, [], 0
    def enqueue(self, prompts, params, use_tqdm):
        for prompt, param in zip(prompts, params, strict=True):
            ids = prompt["prompt_token_ids"]
            assert len(ids) + param.max_tokens <= self.settings["max_model_len"]
            made = [ids[-1]] * (param.max_tokens - 1) + [1]
            self.queue.append((str(self.asked), made))
            self.asked += 1
        return [f"{name}-random" for name, _ in self.queue]
    def has_unfinished_requests(self): return bool(self.queue)
    def step(self):
        name, made = self.queue.pop()
        output = SimpleNamespace(token_ids=made)
        return [SimpleNamespace(finished=True, request_id=name, outputs=[output])]
'''


@pytest.fixture
def tokenizer() -> Any:
    made = tiny.tokenizer()
    made.pad_token = made.eos_token
    return made


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a module `vllm` in front, whose model loads as given."""

    def install(mood: str) -> None:
        (tmp_path / "vllm.py").write_text(STAND_IN.replace("MOOD", mood))
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("vllm", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.save_base(tmp_path / "base", tiny.llama(torch.float32))
    return tmp_path / "base"


def test_without_vllm_the_error_says_what_to_install(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"measure.generation.backend is vllm, but vllm is not installed: pip install "
    with (
        pytest.raises(UserError, match=said + r"'palimpsest\[vllm\]', or set it to transformers"),
        vllm_engine.started(folder, tokenizer, torch.float32, LIMITS),
    ):
        pass


def test_an_answer_has_room_behind_the_longest_prompt() -> None:
    settings = engine_settings(Path("merged"), torch.bfloat16, LIMITS, False)
    assert (settings["max_model_len"], settings["dtype"]) == (13, "bfloat16")


def test_greedy_requests_stop_where_transformers_does() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, min_p=0.1)
    assert request_settings(config, {7, 2}, 48, None) == {
        "max_tokens": 48,
        "stop_token_ids": [2, 7],
        "detokenize": False,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
    }


def test_sampled_requests_follow_the_settings() -> None:
    settings = request_settings(GenerationConfig(temperature=0.1), {2}, 48, DRAWN)
    assert (settings["temperature"], settings["top_p"], settings["min_p"]) == (0.7, 0.9, 0.0)


def test_what_a_models_generation_config_asks_for_is_followed_or_refused() -> None:
    config = GenerationConfig(repetition_penalty=1.05)
    assert request_settings(config, {2}, 48, None)["repetition_penalty"] == 1.05
    with pytest.raises(UserError, match="no_repeat_ngram_size, which vLLM would not follow"):
        request_settings(GenerationConfig(no_repeat_ngram_size=3), {2}, 48, None)


def test_each_sampled_row_has_a_seed_of_its_own() -> None:
    seeds = request_seeds(DRAWN, 50)
    assert len(set(seeds)) == 50
    assert seeds == request_seeds(DRAWN, 50)
    assert not set(seeds) & set(request_seeds(Sampled(0.7, 0.9, seed=4), 50))
    assert request_seeds(None, 2) == [None, None]


def test_answers_of_its_process_come_back_in_the_order_of_the_rows(
    folder: Path, tokenizer: Any, stand_in: Any
) -> None:
    stand_in("pass")
    reports: list[tuple[int, int]] = []
    with vllm_engine.started(folder, tokenizer, torch.float32, LIMITS) as speak:
        first = speak(ROWS, done=lambda rows, tokens: reports.append((rows, tokens)))
        again = speak(ROWS[1:], done=lambda rows, tokens: None, sampled=DRAWN)
    last = [int(row.prompt[-1]) for row in ROWS]
    assert first == [Answer(tiny.words([i] * 3), 4, True, (i, i, i)) for i in last]
    assert again == first[1:]
    assert reports == [(1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("raise ValueError('no room')", "vLLM failed: ValueError: no room; mend that, or set"),
        ("os._exit(9)", "vLLM's process ended without an answer"),
    ],
)
def test_what_stops_vllm_is_named(
    folder: Path, tokenizer: Any, stand_in: Any, mood: str, said: str
) -> None:
    stand_in(mood)
    with (
        pytest.raises(UserError, match=said),
        vllm_engine.started(folder, tokenizer, torch.float32, LIMITS),
    ):
        pass
