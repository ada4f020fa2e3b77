"""Measure: everything that the evaluation needs from a model, in one job.

One teacher-forced pass writes a table of tokens, one generation pass writes answers, and
`original`, the model before unlearning, gives the likelihood of those. Every metric is arithmetic
over the two tables (`palimpsest.metrics`), so a new metric needs no model.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from palimpsest.engine import vllm_engine
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import Answerer, Sampled, ended
from palimpsest.engine.rows import Row
from palimpsest.io.artifacts import GENERATIONS, LIKELIHOOD, MEASURE
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.measuring.alternatives import (
    Format,
    format_of,
    in_chat,
    in_own_format,
    own_formats,
    wrapped,
    wrong_answers,
)
from palimpsest.measuring.answers import (
    Answered,
    Questions,
    answer_questions,
    generations_table,
)
from palimpsest.measuring.backends import transformers_answerer, vllm_answerer
from palimpsest.measuring.likelihood import answer_logprobs, likelihood
from palimpsest.measuring.limit import longest_answer
from palimpsest.measuring.rows import (
    EvaluatedRow,
    read_parts,
    rows_to_answer,
    with_right_responses,
)
from palimpsest.metrics.asked import sampled_block, wrapped_block
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import freed, load_model
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
    form = format_of(base, config["template"])
    asked = config.get("asked", {})
    own = own_formats(asked, config["parts"], job.datasets, base, config["template"])
    rows = {
        **read_parts(config["parts"], job.tokens),
        **in_chat(config["parts"], job.datasets, base, config["template"]),
        **in_own_format(own, config["parts"], job.datasets),
    }
    evaluated = [*with_right_responses(rows), *_with_wrong_answers(config, job.datasets, form, own)]
    questions = _questions(rows, config, job.datasets, own.get("forget", form), label)
    limit = _limit(questions, config, form, label)
    limits = {group.limit or limit for group in questions}
    by_vllm = config["generation"].get("backend") == "vllm"
    answered: list[Answered] = []
    if by_vllm:
        # This comes first, while no model is on the device: vLLM takes nearly all of its memory.
        # The folder is fixed, so that this run replaces and removes what a killed run left there.
        with vllm_answerer(
            config,
            base,
            job.model,
            out / ".vllm",
            tokenizer,
            vllm_engine.Limits(_longest(questions), max(limits)),
            device,
            label,
        ) as answerer:
            answered = _answers(lambda _: answerer, questions, limit, tokenizer)
    network = load_model(job.model, base, config["dtype"], device, remote)
    ends = form.tokenizer.ends.stops
    table = likelihood(Body(network), evaluated, job.untracked["batch_tokens"], ends, label)
    write_table(out / LIKELIHOOD, table)
    if not by_vllm:
        # Not bound to a variable, so that this model is freed before the next one is loaded.
        batch_rows = config["generation"]["batch_rows"]
        by_limit = {n: transformers_answerer(network, tokenizer, n, batch_rows) for n in limits}
        answered = _answers(by_limit.__getitem__, questions, limit, tokenizer)
        del by_limit
    if job.model != job.original:
        del network
        freed()
        network = load_model(job.original, base, config["dtype"], device, remote)
    logprobs = answer_logprobs(Body(network), answered, job.untracked["batch_tokens"])
    own_limits = {b: group.limit for group in questions if group.limit for b in group.rows}
    write_table(
        out / GENERATIONS,
        generations_table(answered, logprobs),
        max_new_tokens=limit,
        **({"limits": own_limits} if own_limits else {}),
    )
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    write_document(out / MEASURE, _facts(time.monotonic() - began, device, dtype))


def _with_wrong_answers(
    config: dict[str, Any], datasets: Path, form: Format, own: Mapping[str, Format]
) -> list[EvaluatedRow]:
    by_block = wrong_answers(config["parts"], config["alternatives"], datasets, form, own)
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
    """Every row to answer and the wrapped ones of ``forget``; then ``forget`` for each seed.

    Blocks that ``evaluate.asked`` gives a limit or stop texts of their own are asked apart.
    """
    plain = rows_to_answer(rows, config["answers"])
    ref = config["parts"]["forget"]
    asked = config.get("asked", {})
    keys = {b: (one["max_new_tokens"], tuple(one["stop"])) for b, one in asked.items()}
    apart = {block: key for block, key in keys.items() if key != (None, ())}
    of_forget = apart.get("forget", (None, ()))
    in_wrappers = {
        wrapped_block(name): wrapped(ref, text, config["answers"], datasets, form)
        for name, text in config["wrappers"].items()
    }
    together = {block: part for block, part in plain.items() if block not in apart}
    groups: dict[tuple[int | None, tuple[str, ...]], dict[str, list[Row]]] = {
        key: {} for key in [(None, ()), of_forget, *apart.values()]
    }
    groups[None, ()] |= together
    for block, key in apart.items():
        groups[key][block] = plain[block]
    groups[of_forget] |= in_wrappers
    questions = [
        Questions(blocks, f"{label} answers", limit=limit, stop=stop)
        for (limit, stop), blocks in groups.items()
        if blocks
    ]
    sampling = config["sampling"]
    for seed in sampling["seeds"]:
        sampled = Sampled(sampling["temperature"], sampling["top_p"], seed)
        blocks = {sampled_block(seed): plain["forget"]}
        name = f"{label} sampled answers, seed {seed}"
        questions.append(Questions(blocks, name, sampled, *of_forget))
    return questions


def _limit(questions: Sequence[Questions], config: dict[str, Any], form: Format, label: str) -> int:
    """The limit of the questions without one of their own; every limit is checked."""
    setting, context = config["generation"]["max_new_tokens"], form.tokenizer.context
    limits = []
    for limit in dict.fromkeys([None, *(group.limit for group in questions)]):
        groups = [group for group in questions if group.limit == limit]
        rows = {block: part for group in groups for block, part in group.rows.items()}
        if rows:
            name = label if limit is None else f"{label}, {', '.join(rows)}"
            limits.append(longest_answer(limit or setting, rows, context, name))
    return limits[0]


def _longest(questions: Sequence[Questions]) -> int:
    """Tokens of the longest prompt."""
    return max(
        row.prompt_length for group in questions for part in group.rows.values() for row in part
    )


def _answers(
    answerer: Callable[[int], Answerer],
    questions: Sequence[Questions],
    limit: int,
    tokenizer: Any,
) -> list[Answered]:
    """The answers to all questions.

    Args:
        answerer: what answers with at most a given number of tokens; vLLM's has one limit for all.
        questions: groups that are asked alike.
        limit: of the groups that have none of their own.
        tokenizer: the base's.
    """
    answered = []
    for group in questions:
        longest = group.limit or limit
        for one in answer_questions(answerer(longest), group):
            answer = ended(one.answer, longest, group.stop, tokenizer)
            answered.append(replace(one, answer=answer))
    return answered


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
