"""Measure: everything the evaluation needs of a model, in one job.

One teacher-forced pass writes a table of tokens, one generation pass writes answers, and the
subject before unlearning says how fluent those are. Every metric is arithmetic over the two tables
(`palimpsest.metrics`), so changing a metric needs no model.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import Answer, Sampled, Speak
from palimpsest.engine.head import token_table
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, batches, read_rows
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.asked import ANSWERED, RESPONSE, asked, sampled_block, wrapped_block
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import load_model
from palimpsest.stages.common import dataset_and_part
from palimpsest.stages.speakers import transformers_speaker, vllm_speaker
from palimpsest.stages.wordings import Wording, wording, wrapped, wrong_answers


@dataclass(frozen=True)
class Line:
    """A row to be read under teacher forcing."""

    block: str
    row: Row
    alternative: int = RESPONSE
    """Place among the row's wrong answers; `RESPONSE` where the row has its own response."""


@dataclass(frozen=True)
class Questions:
    """Rows that are answered in one way."""

    rows: Mapping[str, Sequence[Row]]
    """Block -> rows."""
    label: str
    """What progress lines call it."""
    sampled: Sampled | None = None
    """How the answers are drawn; None: greedy."""


@dataclass(frozen=True)
class Said:
    """An answer to a row's prompt."""

    block: str
    row: Row
    answer: Answer


@dataclass(frozen=True)
class Sizes:
    """What changes the speed of measuring, and no result."""

    batch_rows: int
    """Prompts decoded together."""
    batch_tokens: int
    """Tokens of one teacher-forced batch."""


def measure(
    config: dict[str, Any],
    base: Path,
    model: Path,
    before: Path,
    tokens: Path,
    datasets: Path,
    out: Path,
    label: str,
    sizes: Sizes,
    threads: int | None,
) -> None:
    """Write ``likelihood.parquet``, ``generations.parquet`` and ``measure.json`` into `out`.

    Args:
        config: the stage's slice.
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        before: that of the subject before unlearning, which judges how fluent the answers are.
        tokens: ``resources/tokens/<base>``.
        datasets: ``resources/datasets``.
        out: ``results/<model>/<method>/seed-<seed>``.
        label: what progress lines call it.
        sizes: of batches.
        threads: CPU threads.
    """
    began = time.monotonic()
    device = set_up(threads)
    remote = config["trust_remote_code"]
    tokenizer = load_tokenizer(base, remote)
    rows = read_parts(config["parts"], tokens)
    words = wording(base, config["template"])
    lines = [*lines_of(rows), *_alternatives(config, datasets, words)]
    questions = _questions(rows, config, datasets, words, label)
    limit = config["generation"]["max_new_tokens"]
    by_vllm = config["generation"].get("backend") == "vllm"
    said: list[Said] = []
    if by_vllm:
        # First of all, while no model is on the device: vLLM takes nearly all of its memory.
        # A fixed folder: what a killed run left there is written over, and removed after.
        with vllm_speaker(
            config, base, model, out / ".vllm", tokenizer, _longest(questions), device, label
        ) as speak:
            said = _answers(speak, questions)
    network = load_model(model, base, config["dtype"], device, remote)
    table = likelihood(Body(network), lines, sizes.batch_tokens, tokenizer, label)
    write_table(out / "likelihood.parquet", table)
    if not by_vllm:
        # No name of its own: it would keep the model in memory beside the next one.
        said = _answers(
            transformers_speaker(network, tokenizer, limit, sizes.batch_rows), questions
        )
    if model != before:
        del network
        network = load_model(before, base, config["dtype"], device, remote)
    costs = fluency(Body(network), said, sizes.batch_tokens)
    write_table(out / "generations.parquet", generations(said, costs), max_new_tokens=limit)
    write_document(
        out / "measure.json",
        {
            "wall_s": time.monotonic() - began,
            "peak_rss_mb": max(
                resource.getrusage(who).ru_maxrss / 1024
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            ),
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


def lines_of(rows: Mapping[str, Sequence[Row]]) -> list[Line]:
    """Every row with its own response."""
    return [Line(block, row) for block, part in rows.items() for row in part]


def to_answer(rows: dict[str, list[Row]], count: int | None) -> dict[str, list[Row]]:
    """Of each answered block at most `count` rows (None: all), the same for every method."""
    chosen = {
        block: set(asked([row.id for row in part], count))
        for block, part in rows.items()
        if block in ANSWERED
    }
    return {block: [r for r in rows[block] if r.id in ids] for block, ids in chosen.items()}


def _alternatives(config: dict[str, Any], datasets: Path, words: Wording) -> Iterable[Line]:
    found = wrong_answers(config["parts"], config["alternatives"], datasets, words)
    return [Line(block, row, place) for block, rows in found.items() for place, row in rows]


def _questions(
    rows: dict[str, list[Row]], config: dict[str, Any], datasets: Path, words: Wording, label: str
) -> list[Questions]:
    """Every asked row and the wrapped ones of ``forget``; then these for each sampled answer."""
    plain = to_answer(rows, config["answers"])
    ref = config["parts"]["forget"]
    around = {
        wrapped_block(name): wrapped(ref, text, config["answers"], datasets, words)
        for name, text in config["wrappers"].items()
    }
    found = [Questions(plain | around, f"{label} answers")]
    sampling = config["sampling"]
    for seed in sampling["seeds"]:
        how = Sampled(sampling["temperature"], sampling["top_p"], seed)
        drawn = {sampled_block(seed): plain["forget"]}
        found.append(Questions(drawn, f"{label} sampled answers, seed {seed}", how))
    return found


def _longest(questions: Sequence[Questions]) -> int:
    rows = [row for some in questions for part in some.rows.values() for row in part]
    return max(row.prompt_length for row in rows)


def _answers(speak: Speak, questions: Sequence[Questions]) -> list[Said]:
    return [said for some in questions for said in generate(speak, some)]


@torch.no_grad()
def likelihood(
    body: Body, lines: Sequence[Line], batch_tokens: int, tokenizer: Any, label: str
) -> pa.Table:
    """One line per target token, see `palimpsest.engine.head.token_table`."""
    progress = Progress(f"{label} likelihood", len(lines))
    keys = ("part", "id", "alternative", "position", "token", "logprob", "hit", "mean", "sd", "eos")
    columns: dict[str, list[Any]] = {key: [] for key in keys}
    done = 0
    for places in batches([line.row for line in lines], batch_tokens):
        batch = [lines[i] for i in places]
        members = [line.row for line in batch]
        for name, values in zip(
            ("logprob", "hit", "mean", "sd"), _token_table(body, members), strict=True
        ):
            columns[name] += values
        for line in batch:
            response = line.row.response
            columns["part"] += [line.block] * len(response)
            columns["id"] += [line.row.id] * len(response)
            columns["alternative"] += [line.alternative] * len(response)
            columns["position"] += range(len(response))
            columns["token"] += response.tolist()
            columns["eos"] += (response == tokenizer.eos_token_id).tolist()
        done += len(batch)
        progress.update(done, sum(map(len, members)))
    types = {"alternative": pa.int16(), "position": pa.int32(), "token": pa.int32()}
    types |= dict.fromkeys(("logprob", "mean", "sd"), pa.float32())
    return pa.table({k: pa.array(v, types.get(k)) for k, v in columns.items()})


def _token_table(body: Body, rows: Sequence[Row]) -> list[list[Any]]:
    spans = [
        hidden[row.prompt_length - 1 : len(row) - 1]
        for row, hidden in zip(rows, body.hidden(rows), strict=True)
    ]
    labels = torch.cat([row.response for row in rows]).to(body.device)
    return [column.tolist() for column in token_table(torch.cat(spans), labels, body.head)]


def generate(speak: Speak, questions: Questions) -> list[Said]:
    """The answer to every row, in their order."""
    flat = [(block, row) for block, part in questions.rows.items() for row in part]
    progress = Progress(questions.label, len(flat))
    answers = speak([row for _, row in flat], done=progress.update, sampled=questions.sampled)
    return [Said(block, row, said) for (block, row), said in zip(flat, answers, strict=True)]


@torch.no_grad()
def fluency(body: Body, said: Sequence[Said], batch_tokens: int) -> list[float]:
    """Log-probability (nats) of each answer's tokens, end-of-text aside; 0 for an empty one."""
    places = [i for i, one in enumerate(said) if len(one.answer.ids)]
    rows = [_spoken(said[i]) for i in places]
    found = [0.0] * len(said)
    for batch in batches(rows, batch_tokens):
        logprobs = _token_table(body, [rows[i] for i in batch])[0]
        end = 0
        for i in batch:
            start, end = end, end + len(rows[i].response)
            found[places[i]] = sum(logprobs[start:end])
    return found


def _spoken(said: Said) -> Row:
    ids = torch.cat([said.row.prompt, torch.tensor(said.answer.ids)])
    return Row(said.row.id, ids, said.row.prompt_length)


def generations(said: Sequence[Said], costs: Sequence[float]) -> pa.Table:
    """One line per answer."""
    return pa.table(
        {
            "part": [one.block for one in said],
            "id": [one.row.id for one in said],
            "answer": [one.answer.text for one in said],
            "tokens": pa.array([one.answer.tokens for one in said], pa.int32()),
            "stopped": [one.answer.stopped for one in said],
            "before_tokens": pa.array([len(one.answer.ids) for one in said], pa.int32()),
            "before_logprob": pa.array(costs, pa.float64()),
        }
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
