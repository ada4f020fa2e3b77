"""Greedy answers, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from palimpsest.engine.rows import Row


@torch.no_grad()
def answers(model: Any, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
    """The answer to each prompt, stripped of special tokens and white space."""
    texts = []
    for row in rows:
        ids = row.prompt[None].to(model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        ids_written = output[0, ids.shape[1] :].tolist()
        texts.append(tokenizer.decode(ids_written, skip_special_tokens=True).strip())
    return texts
