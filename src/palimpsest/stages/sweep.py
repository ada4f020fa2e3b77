"""Forget-retain trade-off over lambda, on validation rows: one model load, no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from palimpsest.data import tokens
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import generator
from palimpsest.io import schemas
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.answers import Questions, answer_questions, answers_table
from palimpsest.measuring.backends import transformers_answerer
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.limit import longest_answer
from palimpsest.measuring.rows import read_parts, with_right_responses
from palimpsest.metrics.summary import summarize
from palimpsest.model.base import load_tokenizer
from palimpsest.model.lora import load_subject
from palimpsest.model.names import first_block
from palimpsest.model.vector import attach_vector
from palimpsest.pipeline.stages import Sweep
from palimpsest.settings.types import split_ref

ANSWERED = ("forget", "retain")
"""Blocks whose rows are answered; for the others the likelihood is enough."""


def sweep(job: Sweep) -> None:
    """Measure the negated model at every scale and write one line per scale and part.

    Raises:
        UserError: an input is missing or altered.
    """
    config, base, label = job.config, job.base, job.label
    batch_tokens = job.untracked["batch_tokens"]
    device = set_up(job.threads)
    model = load_subject(base, job.subject, config, device)
    model, changed, set_factor = attach_vector(model, job.acquired, job.others)
    tokenizer = load_tokenizer(base, config["trust_remote_code"])
    taught = tokens.load_tokenizer(base)
    rows = {
        block: sample(part, config["rows"], block)
        for block, part in read_parts(config["parts"], job.tokens).items()
    }
    # Blocks below the task vector compute the same at every lambda, so they run once.
    network = model.get_base_model() if hasattr(model, "peft_config") else model
    body = Body(network, first_block(changed))
    for part in rows.values():
        body.keep(part)
    evaluated = with_right_responses(rows)
    questions = {block: part for block, part in rows.items() if block in ANSWERED}
    truth = pd.concat(
        right_answers(job.datasets, config["parts"][block], block) for block in questions
    )
    generation, context = config["generation"], taught.context
    limit = longest_answer(generation["max_new_tokens"], questions, context, label)
    answerer = transformers_answerer(model, tokenizer, limit, generation["batch_rows"])
    progress = Progress(label, len(config["scales"]), interval_s=0)
    lines: list[dict[str, Any]] = []
    for count, scale in enumerate(config["scales"], 1):
        set_factor(-scale)
        at_scale = f"{label} lambda {scale:g}"
        table = likelihood(body, evaluated, batch_tokens, taught.ends.stops, at_scale)
        answered = answer_questions(answerer, Questions(questions, f"{at_scale} answers"))
        summary = summarize(table.to_pandas(), answers_table(answered).to_pandas(), truth)
        lines += [{"scale": scale, "part": part, **values} for part, values in summary.items()]
        recall = {part: summary[part]["recall_rate"] for part in questions}
        progress.update(count, 0, **{k: v for k, v in recall.items() if v is not None})
    write_table(job.out, pa.Table.from_pylist(lines, schema=schemas.SWEEP))


def sample(rows: Sequence[Row], count: int, name: str) -> list[Row]:
    """At most `count` rows, the same for every method."""
    order = torch.randperm(len(rows), generator=generator(0, "sweep", name))[:count].tolist()
    return [rows[i] for i in sorted(order)]


def right_answers(datasets: Path, ref: str, block: str) -> pd.DataFrame:
    """The part's rows as `palimpsest.metrics.summary.summarize` reads them."""
    dataset, part = split_ref(ref)
    table, _ = read_table(verified(datasets / dataset, table_of(part)))
    frame = table.select(["id", "prompt", "response", "key"]).to_pandas()
    return frame.assign(part=block)
