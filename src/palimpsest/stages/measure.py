"""Measure: everything the evaluation needs of a model, in one load.

One teacher-forced pass writes a table of tokens, one generation pass writes answers. Every metric
is arithmetic over these two tables (`palimpsest.metrics`), so changing a metric needs no model.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import Answer, answer
from palimpsest.engine.head import token_table
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.io.atomic import write_json
from palimpsest.io.tables import write_table
from palimpsest.metrics.answered import asked
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import load_model
from palimpsest.stages.common import dataset_and_part


def measure(
    config: dict[str, Any],
    base: Path,
    model: Path,
    tokens: Path,
    out: Path,
    label: str,
    batch_rows: int,
    batch_tokens: int,
    threads: int | None,
) -> None:
    """Write ``likelihood.parquet``, ``generations.parquet`` and ``measure.json`` into `out`.

    Args:
        config: the stage's slice.
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        tokens: ``resources/tokens/<base>``.
        out: ``results/<model>/<method>/seed-<seed>``.
        label: what progress lines call it.
        batch_rows: prompts decoded together.
        batch_tokens: tokens of one teacher-forced batch.
        threads: CPU threads.
    """
    began = time.monotonic()
    device = set_up(threads)
    network = load_model(model, base, config["dtype"], device, config["trust_remote_code"])
    tokenizer = load_tokenizer(base, config["trust_remote_code"])
    rows = read_parts(config["parts"], tokens)
    limit = config["generation"]["max_new_tokens"]
    write_table(
        out / "likelihood.parquet", likelihood(Body(network), rows, batch_tokens, tokenizer, label)
    )
    answers = generate(
        network, tokenizer, to_answer(rows, config["answers"]), limit, batch_rows, label
    )
    write_table(out / "generations.parquet", answers, max_new_tokens=limit, decoding="greedy")
    write_json(
        out / "measure.json",
        {
            "wall_s": time.monotonic() - began,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20
            if device.type == "cuda"
            else None,
            "device": _device_name(device),
            "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        },
    )


def read_parts(parts: dict[str, str], tokens: Path) -> dict[str, list[Row]]:
    """Rows of each block (``forget``, ``retain``, ...)."""
    found = {}
    for block, ref in parts.items():
        dataset, part = dataset_and_part(ref)
        found[block] = read_rows(tokens / dataset, part)
    return found


def to_answer(rows: dict[str, list[Row]], count: int | None) -> dict[str, list[Row]]:
    """Of each block at most `count` rows (None: all), the same ones for every method."""
    chosen = {block: set(asked([row.id for row in part], count)) for block, part in rows.items()}
    return {block: [r for r in part if r.id in chosen[block]] for block, part in rows.items()}


@torch.no_grad()
def likelihood(
    body: Body, rows: dict[str, list[Row]], batch_tokens: int, tokenizer: Any, label: str
) -> pa.Table:
    """One line per target token: its log-probability, top-1 hit, the vocabulary's mean and sd."""
    flat = [(block, row) for block, part in rows.items() for row in part]
    progress = Progress(f"{label} likelihood", len(flat))
    columns: dict[str, list[Any]] = {
        key: []
        for key in ("part", "id", "position", "token", "logprob", "hit", "mean", "sd", "eos")
    }
    done = 0
    for batch in batches(flat, batch_tokens):
        members = [row for _, row in batch]
        spans = [
            hidden[row.prompt_length - 1 : len(row) - 1]
            for row, hidden in zip(members, body.hidden(members), strict=True)
        ]
        labels = torch.cat([row.response for row in members]).to(body.device)
        table = [column.cpu() for column in token_table(torch.cat(spans), labels, body.head)]
        for name, column in zip(("logprob", "hit", "mean", "sd"), table, strict=True):
            columns[name] += column.tolist()
        for block, row in batch:
            count = len(row.response)
            columns["part"] += [block] * count
            columns["id"] += [row.id] * count
            columns["position"] += range(count)
            columns["token"] += row.response.tolist()
            columns["eos"] += (row.response == tokenizer.eos_token_id).tolist()
        done += len(batch)
        progress.update(done, sum(map(len, members)))
    types = {"position": pa.int32(), "token": pa.int32()}
    types |= dict.fromkeys(("logprob", "mean", "sd"), pa.float32())
    return pa.table({k: pa.array(v, types.get(k)) for k, v in columns.items()})


def generate(
    model: nn.Module,
    tokenizer: Any,
    rows: dict[str, list[Row]],
    max_new_tokens: int,
    batch_rows: int,
    label: str,
) -> pa.Table:
    """One line per row: the greedy answer to its prompt."""
    flat = [(block, row) for block, part in rows.items() for row in part]
    progress = Progress(f"{label} answers", len(flat))
    answers: Sequence[Answer] = answer(
        model, tokenizer, [row for _, row in flat], max_new_tokens, batch_rows, progress.update
    )
    return pa.table(
        {
            "part": [block for block, _ in flat],
            "id": [row.id for _, row in flat],
            "answer": [a.text for a in answers],
            "tokens": pa.array([a.tokens for a in answers], pa.int32()),
            "stopped": [a.stopped for a in answers],
        }
    )


def batches(flat: Sequence[tuple[str, Row]], batch_tokens: int) -> list[list[tuple[str, Row]]]:
    """Rows of similar length together, at most about `batch_tokens` (with padding) in each."""
    result: list[list[tuple[str, Row]]] = []
    for item in sorted(flat, key=lambda pair: len(pair[1])):
        if not result or (len(result[-1]) + 1) * len(item[1]) > batch_tokens:
            result.append([])
        result[-1].append(item)
    return result


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
