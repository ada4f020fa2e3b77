"""Training examples that are made before training: other labels, or a mixture of two sets.

One table per stream: token ids, prompt length, the labels to predict, and the row's sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from palimpsest.config.draw import Draw
from palimpsest.config.methods import algorithm
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.head import second_best
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import generator
from palimpsest.errors import UserError
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.limits import BATCH_ROWS
from palimpsest.model.base import load_base, load_tokenizer, ordinary_tokens
from palimpsest.model.lora import attach_subject
from palimpsest.stages.common import dataset_and_part

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("sign", pa.int8()),
    ]
)
"""Columns of ``.../seed-<seed>/examples/<stream>.parquet``."""


def examples(
    config: dict[str, Any],
    base: Path,
    subject: Path | None,
    tokens: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Write the examples of every stream that needs some, and their manifest.

    Args:
        config: the stage's slice: settings of the method, sets, seed.
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``, needed for adversarial labels.
        tokens: ``resources/tokens/<base>``.
        out: ``results/<model>/<method>/seed-<seed>/examples``.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, or the scenario lacks a set.
    """
    module = algorithm(config["settings"]["algorithm"])
    settings = module.Settings(**config["settings"])
    draws: dict[str, Draw] = module.draws(settings)
    counts = {}
    for name, draw in draws.items():
        if not draw.examples:
            continue
        sets = [_read(config, ref, tokens) for ref in draw.sets]
        if draw.signs:
            rows = mixture(sets, draw.signs, config["seed"])
        elif draw.labels == "random":
            tokenizer = load_tokenizer(base, config["trust_remote_code"])
            rows = random_labels(sets[0], ordinary_tokens(tokenizer), config["seed"])
        else:
            assert subject is not None
            rows = adversarial_labels(config, base, subject, sets[0], label, threads)
        counts[name] = len(rows)
        write_table(out / f"{name}.parquet", _table(rows), labels=draw.labels, signs=draw.signs)
    write_manifest(out, [f"{name}.parquet" for name in counts], rows=counts)


def read_examples(folder: Path, stream: str) -> list[Row]:
    """Read the examples of one stream.

    Raises:
        UserError: the table is missing or altered.
    """
    table, _ = read_table(verified(folder, f"{stream}.parquet"))
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


def mixture(sets: Sequence[Sequence[Row]], signs: Sequence[int], seed: int) -> list[Row]:
    """All rows of the first set, as many of the second, with their signs, in a seeded order.

    A second set that is shorter comes again as often as needed, each of its rows with its own sign
    (in the released code signs slip where positives run out).
    """
    first, second = sets
    random = generator(seed, "mixture")
    positives: list[Row] = []
    while len(positives) < len(first):
        order = torch.randperm(len(second), generator=random).tolist()
        positives += [second[i] for i in order]
    chosen = [(row, signs[0]) for row in first]
    chosen += [(row, signs[1]) for row in positives[: len(first)]]
    order = torch.randperm(len(chosen), generator=random).tolist()
    return [_example(*chosen[i]) for i in order]


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


@torch.no_grad()
def adversarial_labels(
    config: dict[str, Any],
    base: Path,
    subject: Path,
    rows: Sequence[Row],
    label: str,
    threads: int | None,
) -> list[Row]:
    """Each answer token's label is what the subject finds likeliest of all others at that place."""
    device = set_up(threads)
    model = attach_subject(
        load_base(base, config["dtype"], device, config["trust_remote_code"]), subject
    )
    body = Body(model)
    special = torch.tensor(load_tokenizer(base, config["trust_remote_code"]).all_special_ids)
    progress = Progress(label, len(rows))
    labelled = []
    for begin in range(0, len(rows), BATCH_ROWS):
        batch = rows[begin : begin + BATCH_ROWS]
        for row, hidden in zip(batch, body.hidden(batch), strict=True):
            # The state at position t predicts token t + 1.
            states = hidden[row.prompt_length - 1 : len(row) - 1]
            found = second_best(states, row.response.to(device), body.head, special.to(device))
            labelled.append(_example(row, labels=found.cpu()))
        progress.update(begin + len(batch), sum(map(len, batch)))
    return labelled


def _read(config: dict[str, Any], name: str, tokens: Path) -> list[Row]:
    if config["sets"][name] is None:
        raise UserError(f"this method uses {name} rows, and the scenario has no '{name}'")
    dataset, part = dataset_and_part(config["sets"][name])
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
    return pa.Table.from_pylist(lines, schema=SCHEMA)
