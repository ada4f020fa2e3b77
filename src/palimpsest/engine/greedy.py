"""Greedy answers in batches that shrink: a row that has ended leaves its batch.

Most answers are short, and `generate` of transformers computes every row until the longest one has
ended. Where several models differ in their upper blocks alone, what the lower ones make of the
prompts is computed once (`Prompts`). The numbers are those of `palimpsest.engine.generate.answer`:
a row of a matrix product does not depend on the number of rows (bfloat16 on CPUs, two rows or more;
elsewhere up to rounding).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from palimpsest.engine import generate
from palimpsest.engine.decoder import blocks_of
from palimpsest.engine.generate import Answer
from palimpsest.engine.rows import Row

LEAST = 2
"""Rows that stay in a batch: the product of a single row is computed in another way."""

SHARE = 0.1
"""Rows leave once they are this share of the batch: each time the others are copied."""


@dataclass
class Prompts:
    """What the blocks below `first` make of prompts: the same for every model that is asked.

    Attributes:
        first: the lowest block in which the models differ; 0: they share nothing.
    """

    first: int
    _kept: dict[tuple[int, ...], tuple[Tensor, list[tuple[Tensor, Tensor]]]] = field(
        default_factory=dict
    )

    def read(self, model: Any, key: tuple[int, ...], cache: Any, run: Callable[[], Any]) -> Any:
        """Read the prompts of a batch; `run` is the pass, and fills the empty `cache`."""
        blocks = blocks_of(model.get_decoder())
        if not 0 < self.first < len(blocks):
            return run()
        if key in self._kept:
            states, lower = self._kept[key]
            with _standing_in(blocks[: self.first], states):
                output = run()
            for number, (keys, values) in enumerate(lower):
                cache.update(keys, values, number)
            return output
        found: list[Any] = []
        handle = blocks[self.first - 1].register_forward_hook(
            lambda *hooked: found.append(hooked[2])
        )
        try:
            output = run()
        finally:
            handle.remove()
        if isinstance(found[0], Tensor):
            lower = [(layer.keys, layer.values) for layer in cache.layers[: self.first]]
            self._kept[key] = found[0], lower
        return output


@contextlib.contextmanager
def _standing_in(blocks: Any, states: Tensor) -> Iterator[None]:
    """Within the block, these blocks compute nothing, and the last one gives `states`."""
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = lambda hidden_states, *_, **__: hidden_states
    blocks[-1].forward = lambda *_, **__: states
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


@torch.no_grad()
def answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_new_tokens: int,
    batch_rows: int,
    done: Callable[[int, int], None] = lambda rows, tokens: None,
    prompts: Prompts | None = None,
) -> list[Answer]:
    """Answer the prompts of `rows`, in their order; arguments as those of `generate.answer`.

    `prompts` is for further models that answer the same rows in the same batches. An architecture
    whose states are kept in another way is answered by that function.
    """
    if not _steps_alone(model):
        return generate.answer(model, tokenizer, rows, max_new_tokens, batch_rows, done)

    def decoded(batch: list[int], ids: Tensor, mask: Tensor, stops: set[int]) -> list[list[int]]:
        return _decoded(model, ids, mask, max_new_tokens, stops, (prompts or Prompts(0), batch))

    return generate.in_batches(model, tokenizer, rows, batch_rows, done, decoded)


def _steps_alone(model: nn.Module) -> bool:
    """Whether the model's own forward pass is all that a step needs."""
    names = inspect.signature(_inner(model).forward).parameters
    needed = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
    return needed <= set(names)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _decoded(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    limit: int,
    stops: set[int],
    read: tuple[Prompts, list[int]],
) -> list[list[int]]:
    """The tokens that follow each prompt, up to the first that ends it.

    Args:
        model: a causal language model.
        ids: padded prompts, [rows, length].
        mask: of the same shape.
        limit: tokens of the longest answer.
        stops: tokens that end an answer.
        read: what is kept of prompts, and the places of this batch's rows.
    """
    ends = torch.tensor(sorted(stops), device=ids.device)
    found: list[list[int]] = [[] for _ in ids]
    places = torch.arange(len(ids), device=ids.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    cache: Any = DynamicCache(config=_inner(model).config)
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)

    def step() -> Any:
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    for number in range(limit):
        output = step() if number else read[0].read(_inner(model), tuple(read[1]), cache, step)
        ids = output.logits[:, -1].float().argmax(-1, keepdim=True)
        for place, token, over in zip(
            places.tolist(), ids[:, 0].tolist(), ended.tolist(), strict=True
        ):
            if not over:
                found[place].append(token)
        ended = ended | torch.isin(ids[:, 0], ends)
        if bool(ended.all()):
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions[:, -1:] + 1
        kept = (~ended).nonzero()[:, 0]
        if len(kept) >= LEAST and len(ended) - len(kept) >= max(1, SHARE * len(ended)):
            cache.batch_select_indices(kept)
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            places, ended = places[kept], ended[kept]
    return found
