"""What ELM trains on, made by the subject: a novice's targets, and text on other topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from palimpsest.engine.body import Body
from palimpsest.engine.generate import answer
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.limits import BATCH_ROWS
from palimpsest.objectives.elm import Targets, erased


@torch.no_grad()
def erased_rows(
    body: Body,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    targets: Targets,
    label: str = "targets",
) -> list[Row]:
    """The rows with `palimpsest.objectives.elm.erased` at each answer token."""
    prefixes = [_ids(tokenizer, text) for text in (targets.expert, targets.novice)]
    progress = Progress(label, len(rows))
    made: list[Row] = []
    for first in range(0, len(rows), BATCH_ROWS):
        batch = rows[first : first + BATCH_ROWS]
        behind = [
            [behind_prefix(row, prefix, tokenizer.bos_token_id) for row in batch]
            for prefix in prefixes
        ]
        states = zip(*(_states(body, of) for of in (batch, *behind)), strict=True)
        for row, of_row in zip(batch, states, strict=True):
            own, expert, novice = map(body.head, of_row)
            ids, weights = erased(own, expert, novice, targets)
            made.append(
                replace(
                    row,
                    labels=row.response,
                    soft_ids=ids.cpu(),
                    soft_weights=weights.float().cpu(),
                )
            )
        progress.update(first + len(batch), 3 * sum(map(len, batch)))
    return made


def _states(body: Body, rows: Sequence[Row]) -> list[Tensor]:
    """The states of each row that predict its answer."""
    return [
        hidden[row.prompt_length - 1 : len(row) - 1]
        for row, hidden in zip(rows, body.hidden(rows), strict=True)
    ]


def behind_prefix(row: Row, prefix: Tensor, begin: int | None) -> Row:
    """A row whose prompt begins with other text; a begin token stays the first one."""
    head = 1 if begin is not None and row.ids[0] == begin else 0
    ids = torch.cat([row.ids[:head], prefix, row.ids[head:]])
    return Row(row.id, ids, row.prompt_length + len(prefix))


def written_rows(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], targets: Targets
) -> list[Row]:
    """What the model writes behind each prompt and a request for another topic, greedily.

    Raises:
        UserError: it ends at once, whatever the prompt.
    """
    change = _ids(tokenizer, targets.change)
    asked = [
        Row(row.id, torch.cat([row.prompt, change]), row.prompt_length + len(change))
        for row in rows
    ]
    answers = answer(model, tokenizer, asked, targets.tokens, BATCH_ROWS)
    made = [
        Row(row.id, torch.cat([row.ids, torch.tensor(found.ids, dtype=torch.int64)]), len(row))
        for row, found in zip(asked, answers, strict=True)
        if found.ids
    ]
    if not made:
        raise UserError(
            f"targets.change: the subject writes nothing behind {targets.change!r}; use other "
            "words, or weights.fluent: 0"
        )
    return made


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)
