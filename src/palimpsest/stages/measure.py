"""Measure: everything that the evaluation needs from a model, in one job.

One teacher-forced pass writes a table of tokens, one generation pass writes answers, and
`original`, the model before unlearning, gives the likelihood of those. Every metric is arithmetic
over the two tables (`palimpsest.metrics`), so a new metric needs no model.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import Answerer, Sampled
from palimpsest.engine.rows import Row
from palimpsest.io.artifacts import GENERATIONS, LIKELIHOOD, MEASURE
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.measuring.alternatives import Format, format_of, wrapped, wrong_answers
from palimpsest.measuring.answers import (
    Answered,
    Questions,
    answer_questions,
    generations_table,
)
from palimpsest.measuring.backends import transformers_answerer, vllm_answerer
from palimpsest.measuring.likelihood import answer_logprobs, likelihood
from palimpsest.measuring.rows import (
    EvaluatedRow,
    read_parts,
    rows_to_answer,
    with_right_responses,
)
from palimpsest.metrics.asked import sampled_block, wrapped_block
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Measure


def measure(job: Measure) -> None:
    """Write ``likelihood.parquet``, ``generations.parquet`` and ``measure.json``.

    Raises:
        UserError: an input is missing or altered.
    """
    began = time.monotonic()
    config, base, out, label = job.config, job.base, job.out, job.label
    device = set_up(job.threads)
    remote = config["trust_remote_code"]
    tokenizer = load_tokenizer(base, remote)
    rows = read_parts(config["parts"], job.tokens)
    form = format_of(base, config["template"])
    evaluated = [*with_right_responses(rows), *_with_wrong_answers(config, job.datasets, form)]
    questions = _questions(rows, config, job.datasets, form, label)
    limit = config["generation"]["max_new_tokens"]
    by_vllm = config["generation"].get("backend") == "vllm"
    answered: list[Answered] = []
    if by_vllm:
        # This comes first, while no model is on the device: vLLM takes nearly all of its memory.
        # The folder is fixed, so that this run replaces and removes what a killed run left there.
        with vllm_answerer(
            config, base, job.model, out / ".vllm", tokenizer, _longest(questions), device, label
        ) as answerer:
            answered = _answers(answerer, questions)
    network = load_model(job.model, base, config["dtype"], device, remote)
    table = likelihood(Body(network), evaluated, job.untracked["batch_tokens"], tokenizer, label)
    write_table(out / LIKELIHOOD, table)
    if not by_vllm:
        # Not bound to a variable, so that this model is freed before the next one is loaded.
        answered = _answers(
            transformers_answerer(network, tokenizer, limit, config["generation"]["batch_rows"]),
            questions,
        )
    if job.model != job.original:
        del network
        network = load_model(job.original, base, config["dtype"], device, remote)
    logprobs = answer_logprobs(Body(network), answered, job.untracked["batch_tokens"])
    write_table(out / GENERATIONS, generations_table(answered, logprobs), max_new_tokens=limit)
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    write_document(out / MEASURE, _facts(time.monotonic() - began, device, dtype))


def _with_wrong_answers(config: dict[str, Any], datasets: Path, form: Format) -> list[EvaluatedRow]:
    by_block = wrong_answers(config["parts"], config["alternatives"], datasets, form)
    return [
        EvaluatedRow(block, row, place) for block, rows in by_block.items() for place, row in rows
    ]


def _questions(
    rows: Mapping[str, Sequence[Row]],
    config: dict[str, Any],
    datasets: Path,
    form: Format,
    label: str,
) -> list[Questions]:
    """Every row to answer and the wrapped ones of ``forget``; then ``forget`` for each seed."""
    plain = rows_to_answer(rows, config["answers"])
    ref = config["parts"]["forget"]
    in_wrappers = {
        wrapped_block(name): wrapped(ref, text, config["answers"], datasets, form)
        for name, text in config["wrappers"].items()
    }
    questions = [Questions(plain | in_wrappers, f"{label} answers")]
    sampling = config["sampling"]
    for seed in sampling["seeds"]:
        sampled = Sampled(sampling["temperature"], sampling["top_p"], seed)
        blocks = {sampled_block(seed): plain["forget"]}
        questions.append(Questions(blocks, f"{label} sampled answers, seed {seed}", sampled))
    return questions


def _longest(questions: Sequence[Questions]) -> int:
    """Tokens of the longest prompt."""
    return max(
        row.prompt_length for group in questions for part in group.rows.values() for row in part
    )


def _answers(answerer: Answerer, questions: Sequence[Questions]) -> list[Answered]:
    return [answer for group in questions for answer in answer_questions(answerer, group)]


def _facts(wall_s: float, device: torch.device, dtype: str) -> dict[str, Any]:
    """Time, memory and machine, for ``measure.json``."""
    on_gpu = device.type == "cuda"
    return {
        "wall_s": wall_s,
        "peak_rss_mb": max(
            resource.getrusage(who).ru_maxrss / 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ),
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "dtype": dtype,
        "threads": torch.get_num_threads(),
    }
