"""Likelihoods under teacher forcing: the model gets the response and predicts each token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import torch

from palimpsest.engine.body import Body
from palimpsest.engine.kernels.head import token_table
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, batches
from palimpsest.io import schemas
from palimpsest.measuring.answers import Answered
from palimpsest.measuring.rows import EvaluatedRow


@torch.no_grad()
def likelihood(
    body: Body, rows: Sequence[EvaluatedRow], batch_tokens: int, ends: Collection[int], label: str
) -> pa.Table:
    """One line per target token, see `palimpsest.engine.kernels.head.token_table`.

    Args:
        body: the model's decoder and head.
        rows: the rows, in any order.
        batch_tokens: tokens of one batch.
        ends: the base's end tokens; the last token of a row counts as its end if it is one.
        label: name in progress lines.

    Returns:
        Columns `palimpsest.io.schemas.LIKELIHOOD`, rows in the order of the batches.
    """
    progress = Progress(f"{label} likelihood", len(rows))
    columns: dict[str, list[Any]] = {name: [] for name in schemas.LIKELIHOOD.names}
    done = 0
    for places in batches([evaluated.row for evaluated in rows], batch_tokens):
        batch = [rows[i] for i in places]
        members = [evaluated.row for evaluated in batch]
        for name, values in zip(
            ("logprob", "hit", "mean", "sd"), token_columns(body, members), strict=True
        ):
            columns[name] += values
        for evaluated in batch:
            response = evaluated.row.response
            columns["part"] += [evaluated.block] * len(response)
            columns["id"] += [evaluated.row.id] * len(response)
            columns["alternative"] += [evaluated.alternative] * len(response)
            columns["position"] += range(len(response))
            columns["token"] += response.tolist()
            columns["eos"] += [False] * (len(response) - 1) + [int(response[-1]) in ends]
        done += len(batch)
        progress.update(done, sum(map(len, members)))
    return pa.table(columns, schema=schemas.LIKELIHOOD)


@torch.no_grad()
def answer_logprobs(body: Body, answered: Sequence[Answered], batch_tokens: int) -> list[float]:
    """Log-probability (nats) of each answer's tokens, end-of-text aside; 0 for an empty one."""
    places = [i for i, one in enumerate(answered) if one.answer.ids]
    rows = [_with_answer(answered[i]) for i in places]
    logprobs = [0.0] * len(answered)
    for batch in batches(rows, batch_tokens):
        tokens = token_columns(body, [rows[i] for i in batch])[0]
        end = 0
        for i in batch:
            start, end = end, end + len(rows[i].response)
            logprobs[places[i]] = sum(tokens[start:end])
    return logprobs


def token_columns(body: Body, rows: Sequence[Row]) -> list[list[Any]]:
    """Columns of `palimpsest.engine.kernels.head.token_table` for the targets of `rows`, joined."""
    states = [
        hidden[row.prompt_length - 1 : len(row) - 1]
        for row, hidden in zip(rows, body.hidden(rows), strict=True)
    ]
    labels = torch.cat([row.response for row in rows]).to(body.device)
    return [column.tolist() for column in token_table(torch.cat(states), labels, body.head)]


def _with_answer(answered: Answered) -> Row:
    row = answered.row
    ids = torch.cat([row.prompt, torch.tensor(answered.answer.ids)])
    return Row(row.id, ids, row.prompt_length)
