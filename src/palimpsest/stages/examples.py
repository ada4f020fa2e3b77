"""Training examples that are written before training: other labels, or a mixture of two sets.

One table per stream: token ids, prompt length, the labels to predict, and the row's sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from palimpsest.data.tokens import load_tokenizer as tokenizer_of
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.kernels.head import second_best
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import generator
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.limits import BATCH_ROWS
from palimpsest.model.base import load_tokenizer, ordinary_tokens
from palimpsest.model.lora import load_subject
from palimpsest.objectives.catalog import objective
from palimpsest.pipeline.stages import Examples
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import split_ref
from palimpsest.stages.common import part_of


def examples(job: Examples) -> None:
    """Write the examples of every stream that needs them, and their manifest.

    Raises:
        UserError: an input is missing or altered, the scenario lacks a set, or a text has no token.
    """
    config, base, out = job.config, job.base, job.out
    method = objective(config["settings"])
    counts = {}
    for name, draw in method.draws().items():
        if not draw.examples:
            continue
        rows = rows_of(
            draw,
            [_read(config, ref, job.tokens) for ref in draw.sets],
            config["seed"],
            lambda: ordinary_tokens(load_tokenizer(base, config["trust_remote_code"])),
            lambda rows: adversarial_labels(job, rows),
            lambda text: tokens_of(text, base),
        )
        counts[name] = len(rows)
        write_table(out / table_of(name), _table(rows), labels=draw.labels, signs=draw.signs)
    write_manifest(out, list(map(table_of, counts)), rows=counts)


def read_examples(folder: Path, stream: str) -> list[Row]:
    """Read the examples of one stream.

    Raises:
        UserError: the table is missing or altered.
    """
    table, _ = read_table(verified(folder, table_of(stream)))
    return [
        Row(
            r["id"],
            torch.tensor(r["input_ids"], dtype=torch.int64),
            r["prompt_length"],
            labels=torch.tensor(r["labels"], dtype=torch.int64),
            sign=r["sign"],
        )
        for r in table.to_pylist()
    ]


def rows_of(
    draw: Draw,
    sets: Sequence[Sequence[Row]],
    seed: int,
    vocabulary: Callable[[], Tensor],
    adversarial: Callable[[Sequence[Row]], list[Row]],
    tokens: Callable[[str], Tensor],
) -> list[Row]:
    """The examples of a stream.

    Args:
        draw: what the stream reads.
        sets: rows of each of its sets.
        seed: seed of the run.
        vocabulary: returns the ids that random labels are drawn from.
        adversarial: returns rows with adversarial labels.
        tokens: returns the ids of a text's tokens.
    """
    if draw.signs:
        return mixture(sets, draw.signs, seed)
    if draw.labels == "random":
        return random_labels(sets[0], vocabulary(), seed)
    if draw.labels == "text":
        return text_labels(sets[0], tokens(draw.text))
    return adversarial(sets[0])


def mixture(sets: Sequence[Sequence[Row]], signs: Sequence[int], seed: int) -> list[Row]:
    """All rows of the first set and as many of the second, with their signs, in a seeded order.

    A second set that is shorter is repeated, and its rows keep their sign (in the released code
    signs slip where positives run out).
    """
    first, second = sets
    random = generator(seed, "mixture")
    positives: list[Row] = []
    while len(positives) < len(first):
        order = torch.randperm(len(second), generator=random).tolist()
        positives += [second[i] for i in order]
    signed = [(row, signs[0]) for row in first]
    signed += [(row, signs[1]) for row in positives[: len(first)]]
    order = torch.randperm(len(signed), generator=random).tolist()
    return [_example(*signed[i]) for i in order]


def random_labels(rows: Sequence[Row], vocabulary: Tensor, seed: int) -> list[Row]:
    """Each answer token's label is drawn from `vocabulary` (token ids); prompts have no labels."""
    random = generator(seed, "random labels")
    return [
        _example(
            row,
            labels=vocabulary[
                torch.randint(len(vocabulary), (len(row.response),), generator=random)
            ],
        )
        for row in rows
    ]


def text_labels(rows: Sequence[Row], tokens: Tensor) -> list[Row]:
    """The labels of each answer are `tokens` (ids), again and again to its end."""
    return [
        _example(row, labels=tokens[torch.arange(len(row.response)) % len(tokens)]) for row in rows
    ]


def tokens_of(text: str, base: Path) -> Tensor:
    """Ids of a text within an answer, int64 [tokens]; words of control tokens in it are words.

    Raises:
        UserError: the text has no token.
    """
    (ids,) = tokenizer_of(base).continuations([text])
    if not ids:
        raise UserError(f"target: {base.name}'s tokenizer makes no token of {text!r}")
    return torch.tensor(ids, dtype=torch.int64)


def adversarial_labels(job: Examples, rows: Sequence[Row]) -> list[Row]:
    """Each answer token's label is the likeliest other token at that place, under the subject."""
    assert job.subject is not None
    device = set_up(job.threads)
    body = Body(load_subject(job.base, job.subject, job.config, device))
    tokenizer = load_tokenizer(job.base, job.config["trust_remote_code"])
    special = torch.tensor(tokenizer.all_special_ids)
    return best_wrong_guesses(body, rows, special.to(device), job.label)


@torch.no_grad()
def best_wrong_guesses(
    body: Body, rows: Sequence[Row], special: Tensor, label: str = "labels"
) -> list[Row]:
    """Rows whose labels are the likeliest wrong tokens, none of them in `special` (token ids)."""
    progress = Progress(label, len(rows))
    labelled = []
    for begin in range(0, len(rows), BATCH_ROWS):
        batch = rows[begin : begin + BATCH_ROWS]
        for row, hidden in zip(batch, body.hidden(batch), strict=True):
            # The state at position t predicts token t + 1.
            states = hidden[row.prompt_length - 1 : len(row) - 1]
            labels = second_best(states, row.response.to(special.device), body.head, special)
            labelled.append(_example(row, labels=labels.cpu()))
        progress.update(begin + len(batch), sum(map(len, batch)))
    return labelled


def _read(config: dict[str, Any], name: str, tokens: Path) -> list[Row]:
    dataset, part = split_ref(part_of(config["sets"], name))
    return read_rows(tokens / dataset, part, config["settings"]["end_token"])


def _example(row: Row, sign: int = 1, labels: Tensor | None = None) -> Row:
    return Row(row.id, row.ids, row.prompt_length, labels=labels, sign=sign)


def _table(rows: Sequence[Row]) -> pa.Table:
    lines = [
        {
            "id": row.id,
            "input_ids": row.ids.tolist(),
            "prompt_length": row.prompt_length,
            "labels": row.targets.tolist(),
            "sign": row.sign,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(lines, schema=schemas.EXAMPLES)
