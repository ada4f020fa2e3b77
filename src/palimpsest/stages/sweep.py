"""Forget-retain trade-off over lambda, on validation rows: one load, no training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.progress import Progress
from palimpsest.engine.sampler import generator
from palimpsest.io.artifacts import MANIFEST
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics.summary import summarize
from palimpsest.model import delta
from palimpsest.model.adapter import read_adapter
from palimpsest.model.base import load_base, load_tokenizer
from palimpsest.model.lora import attach, attach_subject, set_scale
from palimpsest.model.names import first_block
from palimpsest.stages.common import dataset_and_part
from palimpsest.stages.measure import (
    Questions,
    generate,
    generations,
    likelihood,
    lines_of,
    read_parts,
)
from palimpsest.stages.speakers import transformers_speaker

ANSWERED = ("forget", "retain")
"""Parts whose answers are generated; of the others the likelihood is enough."""


def sweep(
    config: dict[str, Any],
    base: Path,
    subject: Path,
    acquired: Path,
    tokens: Path,
    datasets: Path,
    out: Path,
    label: str,
    batch_rows: int,
    batch_tokens: int,
    threads: int | None,
) -> None:
    """Measure the negated model at every scale and write one line per (scale, part).

    Args:
        config: the stage's slice: scales, rows per part, parts, generation.
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``.
        acquired: ``results/<model>/<method>/seed-<seed>/acquired``.
        tokens: ``resources/tokens/<base>``.
        datasets: ``resources/datasets``.
        out: the parquet file.
        label: what progress lines call it.
        batch_rows: prompts decoded together.
        batch_tokens: tokens of one teacher-forced batch.
        threads: CPU threads.
    """
    device = set_up(threads)
    model = attach_subject(
        load_base(base, config["dtype"], device, config["trust_remote_code"]), subject
    )
    model, changed, scaled = _attached(model, acquired)
    tokenizer = load_tokenizer(base, config["trust_remote_code"])
    rows = {
        block: sample(part, config["rows"], block)
        for block, part in read_parts(config["parts"], tokens).items()
    }
    truth = pd.concat(facts(datasets, ref, block) for block, ref in config["parts"].items())
    # Blocks below the task vector compute the same at every lambda: once is enough.
    network = model.get_base_model() if hasattr(model, "peft_config") else model
    body = Body(network, first_block(changed))
    for part in rows.values():
        body.keep(part)
    asked = {block: part for block, part in rows.items() if block in ANSWERED}
    progress = Progress(label, len(config["scales"]), every=0)
    limit = config["generation"]["max_new_tokens"]
    speak = transformers_speaker(model, tokenizer, limit, batch_rows)
    lines = []
    for count, scale in enumerate(config["scales"], 1):
        scaled(-scale)
        inner = f"{label} lambda {scale:g}"
        costs = likelihood(body, lines_of(rows), batch_tokens, tokenizer, inner).to_pandas()
        said = generate(speak, Questions(asked, f"{inner} answers"))
        answers = generations(said, [0.0] * len(said)).to_pandas()
        summary = summarize(costs, answers, truth)
        summary |= {block: unasked(costs, block) for block in rows if block not in ANSWERED}
        lines += [{"scale": scale, "part": part, **values} for part, values in summary.items()]
        recall = {part: summary[part]["recall_rate"] for part in asked}
        progress.update(count, 0, **{k: v for k, v in recall.items() if v is not None})
    write_table(out, pa.Table.from_pandas(pd.DataFrame(lines), preserve_index=False))


def _attached(model: Any, acquired: Path) -> tuple[Any, Collection[str], Callable[[float], None]]:
    """The model with the task vector, the names that it changes, and how to scale it."""
    if delta.WEIGHTS in read_manifest(acquired)["files"]:
        differences = delta.attach_deltas(model, delta.read_deltas(acquired, MANIFEST))
        model.requires_grad_(False)
        return model, differences, partial(delta.set_factor, model)
    task_vector = read_adapter(acquired)
    model = attach(model, acquired, "acquired")
    return model, task_vector, lambda factor: set_scale(model, "acquired", factor, task_vector)


def unasked(costs: pd.DataFrame, block: str) -> dict[str, Any]:
    """What a part without answers tells: rows, accuracy, token-weighted perplexity."""
    tokens = costs[(costs["part"] == block) & ~costs["eos"]]
    return {
        "n": int(tokens["id"].nunique()),
        "accuracy": float(tokens["hit"].mean()),
        "perplexity": math.exp(-float(tokens["logprob"].mean())),
    }


def sample(rows: list[Any], count: int, name: str) -> list[Any]:
    """At most `count` rows, the same ones for every method."""
    order = torch.randperm(len(rows), generator=generator(0, "sweep", name))[:count].tolist()
    return [rows[i] for i in sorted(order)]


def facts(datasets: Path, ref: str, block: str) -> pd.DataFrame:
    """Id, response and key strings of a part's rows, with the block they belong to."""
    dataset, part = dataset_and_part(ref)
    table, _ = read_table(verified(datasets / dataset, f"{part}.parquet"))
    frame = table.select(["id", "prompt", "response", "key"]).to_pandas()
    return frame.assign(part=block)
