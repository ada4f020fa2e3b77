"""Answers from vLLM, where it is installed, in place of `palimpsest.engine.generate.answer`.

vLLM takes nearly all memory of a device and keeps it. So it runs in another process, whose end
frees all of it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from palimpsest.engine.generate import Answer, Answerer, Sampled, cut, stop_ids
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError

SETTING = "measure.generation.backend"

IGNORED = {
    *("bos_token_id", "eos_token_id", "pad_token_id"),
    *("max_length", "max_new_tokens", "use_cache", "cache_implementation"),
    *("do_sample", "temperature", "top_k", "top_p"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"),
    *("transformers_version", "_from_model_config"),
}
"""Keys of a model's generation config that are set by other means, or change no answer."""

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # vLLM would send a report to its authors
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB; on a CPU vLLM would take nearly all main memory
}
"""Variables that vLLM reads; those that the user has set stay as they are."""


@dataclass(frozen=True)
class Limits:
    """How long a prompt and its answer may be, in tokens."""

    longest_prompt: int
    max_new_tokens: int


def require() -> None:
    """Raise a `UserError` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"{SETTING} is vllm, but vllm is not installed: pip install 'palimpsest[vllm]', or set "
            "it to transformers"
        )


@contextmanager
def started(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    limits: Limits,
    trust_remote_code: bool = False,
) -> Iterator[Answerer]:
    """Start vLLM with the model in `folder`, and yield a function that answers rows with it.

    While it runs, nothing else may need much memory of the device.

    Args:
        folder: a Hugging Face folder with the whole model.
        tokenizer: its tokenizer.
        dtype: type of weights and arithmetic.
        limits: of all rows that will be answered.
        trust_remote_code: run Python code that the folder carries.

    Raises:
        UserError: vLLM is missing or fails, or the model's generation config has a setting
            that vLLM does not support.
    """
    require()
    config = generation_config(folder, trust_remote_code)
    stops = stop_ids(config, tokenizer)
    settings = engine_settings(folder, dtype, limits, trust_remote_code)
    options = partial(request_settings, config, stops, limits.max_new_tokens)
    options(None)  # refuse a config that vLLM cannot follow before anything is loaded
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    process = context.Process(target=_serve, args=(child_pipe, settings, torch.get_num_threads()))
    process.start()
    child_pipe.close()  # else this process would not notice the end of the other
    try:
        _received(pipe)
        yield partial(_answers, pipe, options, stops, tokenizer)
        pipe.close()
        process.join(timeout=60)
    finally:
        process.kill()
        process.join()


def generation_config(folder: Path, trust_remote_code: bool) -> GenerationConfig:
    """The generation config that transformers would use for the model in `folder`."""
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # the folder has no such file
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        return GenerationConfig.from_model_config(config)


def engine_settings(
    folder: Path, dtype: torch.dtype, limits: Limits, trust_remote_code: bool
) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``."""
    return {
        "model": str(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": limits.longest_prompt + limits.max_new_tokens,
        "skip_tokenizer_init": True,
        "trust_remote_code": trust_remote_code,
        # On a CPU, compilation takes longer than the answers.
        "enforce_eager": not torch.cuda.is_available(),
        "use_tqdm_on_load": False,
    }


def request_settings(
    config: GenerationConfig, stops: set[int], max_new_tokens: int, sampled: Sampled | None
) -> dict[str, Any]:
    """Arguments of ``vllm.SamplingParams``: the same answers as by transformers.

    Raises:
        UserError: `config` has a setting that vLLM does not support.
    """
    configured = {key: value for key, value in config.to_diff_dict().items() if value}
    settings: dict[str, Any] = {
        "max_tokens": max_new_tokens,
        "stop_token_ids": sorted(stops),
        "detokenize": False,
        "temperature": 0.0,
        "repetition_penalty": configured.pop("repetition_penalty", 1.0),
    }
    min_p = configured.pop("min_p", 0.0)
    if sampled is not None:
        settings |= {"temperature": sampled.temperature, "top_p": sampled.top_p, "min_p": min_p}
    if unsupported := sorted(configured.keys() - IGNORED):
        raise UserError(
            f"the model's generation config has {', '.join(unsupported)}, which vLLM would not "
            f"follow: set {SETTING} to transformers"
        )
    return settings


def request_seeds(sampled: Sampled | None, count: int) -> list[int | None]:
    """A seed for each request: one for all would give every row the same draws."""
    if sampled is None:
        return [None] * count
    source = torch.Generator().manual_seed(sampled.seed)
    return [int(seed) for seed in torch.randint(2**31, (count,), generator=source)]


def _answers(
    pipe: Connection,
    options: Callable[[Sampled | None], dict[str, Any]],
    stops: set[int],
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    done: Callable[[int, int], None],
    sampled: Sampled | None = None,
) -> list[Answer]:
    prompts = [row.prompt.tolist() for row in rows]
    settings = options(sampled)
    each = [settings | {"seed": seed} for seed in request_seeds(sampled, len(rows))]
    _send(pipe, (prompts, each))
    answers: dict[int, Answer] = {}
    while len(answers) < len(rows):
        place, tokens = _received(pipe)
        answers[place] = cut(tokens, stops, tokenizer)
        done(len(answers), answers[place].tokens)
    return [answers[place] for place in range(len(rows))]


def _send(pipe: Connection, request: Any) -> None:
    try:
        pipe.send(request)
    except OSError as error:
        raise _ended() from error


def _received(pipe: Connection) -> Any:
    # The next message of vLLM's process: (None, result), or (problem, None).
    try:
        problem, result = pipe.recv()
    except (EOFError, OSError) as error:
        raise _ended() from error
    if problem:
        raise UserError(f"vLLM failed: {problem}; mend that, or set {SETTING} to transformers")
    return result


def _ended() -> UserError:
    return UserError(
        "vLLM's process ended without an answer (out of memory?): see its lines above, or set "
        f"{SETTING} to transformers"
    )


# From here on: in vLLM's process.


def _serve(pipe: Connection, settings: dict[str, Any], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    # vLLM would start a further process for its core.
    os.environ |= {**ENVIRONMENT, **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    torch.set_num_threads(threads)
    try:
        from vllm import LLM

        model = LLM(**settings)
        pipe.send((None, None))
        while True:
            prompts, each = pipe.recv()
            for result in _results(model, prompts, each):
                pipe.send((None, result))
    except (EOFError, BrokenPipeError):
        return  # the parent has closed the pipe
    except Exception as error:
        traceback.print_exc()
        pipe.send((f"{type(error).__name__}: {error}", None))


def _results(
    model: Any, prompts: list[list[int]], each: list[dict[str, Any]]
) -> Iterator[tuple[int, list[int]]]:
    # Place and generated tokens of each prompt, in the order in which they finish.
    from vllm import SamplingParams, TokensPrompt

    ids = model.enqueue(
        [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
        [SamplingParams(**settings) for settings in each],
        use_tqdm=False,
    )
    places = {name.partition("-")[0]: place for place, name in enumerate(ids)}
    engine = model.llm_engine
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                yield places[output.request_id], list(output.outputs[0].token_ids)
