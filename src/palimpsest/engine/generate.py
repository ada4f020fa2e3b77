"""Greedy or sampled answers in batches of similar length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from palimpsest.engine.rows import Row

MULTIPLE = 16
"""Prompts are padded to a multiple of this many tokens."""


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: the answer without special tokens, stripped.
        tokens: generated tokens, the end-of-text token included.
        stopped: whether it ended with the end-of-text token (not at the limit).
        ids: the generated tokens before the end-of-text token.
    """

    text: str
    tokens: int
    stopped: bool
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """How to draw answers that are not greedy.

    Attributes:
        temperature: divides the logits.
        top_p: draw from the likeliest tokens that make up this share.
        seed: of the draws; equal seeds and batches give equal answers.
    """

    temperature: float
    top_p: float
    seed: int

    def options(self) -> dict[str, Any]:
        """Options of `generate` of transformers."""
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


class Answerer(Protocol):
    """Answers rows, in their order, with one model and its limits, in any backend."""

    def __call__(
        self,
        rows: Sequence[Row],
        *,
        done: Callable[[int, int], None],
        sampled: Sampled | None = None,
    ) -> list[Answer]:
        """Answer the prompts of `rows`; arguments as those of `answer`."""


@torch.no_grad()
def answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_new_tokens: int,
    batch_rows: int,
    done: Callable[[int, int], None] = lambda rows, tokens: None,
    sampled: Sampled | None = None,
    shared: int | None = 0,
) -> list[Answer]:
    """Answer the prompts of `rows`, in their order.

    A prompt's padded length follows from its own length alone, so attention adds the same numbers
    in the same order in every batch. Where a row of a matrix product does not depend on the number
    of rows (bfloat16 on CPUs, two rows or more), neither does an answer; elsewhere up to rounding.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        rows: only their prompts are read.
        max_new_tokens: longest answer.
        batch_rows: prompts decoded together.
        done: called after each batch with the rows finished and the tokens of this batch.
        sampled: how to draw the answers; None: the likeliest token each time (greedy).
        shared: first tokens that all prompts have in common, which the model reads once a batch;
            None: it reads equal prompts once a batch.
    """
    sampling = {"do_sample": False} if sampled is None else sampled.options()
    if sampled is not None:
        torch.manual_seed(sampled.seed)

    def decoded(_: list[int], ids: Tensor, mask: Tensor, stops: set[int]) -> list[list[int]]:
        ahead = ids.shape[1] - 1 if shared is None else shared
        pad = pad_id(tokenizer)
        cache = _read(model, ids[:, :ahead], mask[:, :ahead], pad)
        options = {**sampling, "eos_token_id": sorted(stops) or None, "pad_token_id": pad}
        return _generated(model, ids, mask, max_new_tokens, stops, cache, options)

    return in_batches(model, tokenizer, rows, batch_rows, done, decoded, shared or 0)


def in_batches(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    batch_rows: int,
    done: Callable[[int, int], None],
    decoded: Callable[[list[int], Tensor, Tensor, set[int]], list[list[int]]],
    common: int = 0,
) -> list[Answer]:
    """Answer the prompts of `rows` batch by batch, in any way of decoding.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        rows: only their prompts are read.
        batch_rows: prompts decoded together.
        done: called after each batch with the rows finished and the tokens of this batch.
        decoded: gives the tokens that follow each prompt of a batch. It gets the places of the
            batch's rows, padded ids and their mask (both [rows, length]; a single prompt stands
            there twice), and the tokens that end an answer.
        common: first tokens that all prompts have in common; the padding stands behind them.
    """
    stops = stop_ids(model.generation_config, tokenizer)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    pad = pad_id(tokenizer)
    answers: dict[int, Answer] = {}
    for batch in batches(rows, batch_rows, common):
        prompts = [rows[i].prompt for i in batch]
        if len(prompts) == 1:
            prompts *= 2  # products of a single row are computed in another way
        ids, mask = pad_left([p[common:] for p in prompts], pad, padded(len(prompts[0]) - common))
        first = torch.stack([prompt[:common] for prompt in prompts])
        ids = torch.cat([first, ids], dim=1).to(device)
        mask = torch.cat([torch.ones_like(first), mask], dim=1).to(device)
        with contiguous_states(model):
            found = decoded(batch, ids, mask, stops)
        for i, tokens in zip(batch, found, strict=False):
            answers[i] = cut(tokens, stops, tokenizer)
        done(len(answers), sum(answers[i].tokens for i in batch))
    return [answers[i] for i in range(len(rows))]


def _generated(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    stops: AbstractSet[int],
    cache: Any,
    options: Mapping[str, Any],
) -> list[list[int]]:
    """The tokens that follow each row; rows that have ended leave the batch every few steps.

    They stay where an answer would depend on the rows beside it: where answers are drawn, and
    where the number of rows changes how their products are rounded.

    Args:
        model: a causal language model.
        ids: padded prompts, [rows, length].
        mask: of the same shape.
        max_new_tokens: longest answer.
        stops: tokens that end an answer.
        cache: what the model keeps of the beginning of `ids`; None: nothing.
        options: of `generate`.
    """
    found: list[list[int]] = [[] for _ in ids]
    places, left = list(range(len(ids))), max_new_tokens
    leave = not options["do_sample"] and _independent(model)
    while True:
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=min(LEAVE_AFTER, left) if leave else left,
            past_key_values=cache,
            return_dict_in_generate=True,
            disable_compile=True,  # some configurations name a cache that compiles by itself
            **options,
        )
        new, cache = output.sequences[:, ids.shape[1] :], output.past_key_values
        for place, tokens in zip(places, new.cpu().tolist(), strict=True):
            found[place] += tokens
        left -= new.shape[1]
        going = [i for i, place in enumerate(places) if stops.isdisjoint(found[place])]
        if not left or not going:
            return found
        leave = leave and _divisible(cache)
        if not leave:
            going = list(range(len(places)))
        elif len(going) == 1:
            # Products of a single row are computed in another way, so another one stays with it.
            going = sorted({*going, int(going == [0])})
        kept = torch.tensor(going, device=ids.device)
        ids = output.sequences[kept]
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)[kept]
        places = [places[i] for i in going]
        if len(kept) < len(new):
            cache.batch_select_indices(kept)


def _divisible(cache: Any) -> bool:
    """Whether rows can be taken out of what the model keeps; a recurrent state has no such way."""
    layers = getattr(cache, "layers", None) or [None]
    return all(hasattr(layer, "batch_select_indices") for layer in layers)


LEAVE_AFTER = 8
"""Steps after which rows that have ended leave their batch."""


def _independent(model: nn.Module) -> bool:
    """Whether an answer does not depend on how many rows are in its batch."""
    weight = next(model.parameters())
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16


def padded(length: int) -> int:
    """The length that a prompt of `length` tokens is padded to."""
    # At least one token of padding: without any, transformers chooses another form of attention.
    return (length // MULTIPLE + 1) * MULTIPLE


def _read(model: nn.Module, ids: Tensor, mask: Tensor, pad: int) -> Any:
    """What the model keeps of the beginnings of prompts, where equal ones are read once.

    Args:
        model: a causal language model.
        ids: padded beginnings, [rows, length]; none are read if the length is 0.
        mask: of the same shape.
        pad: what stands before a prompt.
    """
    if not ids.shape[1]:
        return None
    distinct, places = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    ids, mask = distinct.chunk(2, dim=1)
    done = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=pad,
        return_dict_in_generate=True,
        disable_compile=True,
    )
    done.past_key_values.batch_select_indices(places)
    return done.past_key_values


def batches(rows: Sequence[Row], batch_rows: int, shared: int) -> list[list[int]]:
    """Places of the rows that are answered together: those of one padded length, shortest first."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(padded(row.prompt_length - shared), []).append(i)
    return [
        group[first : first + batch_rows]
        for _, group in sorted(by_length.items())
        for first in range(0, len(group), batch_rows)
    ]


@contextlib.contextmanager
def contiguous_states(model: nn.Module) -> Iterator[None]:
    """Within the block, the head gets states that lie together."""

    # The states of the prompts' last tokens are a slice. With a slice, in bfloat16 on a CPU, the
    # product with the head would copy the head for every row.
    def as_contiguous(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(states.contiguous() for states in args)

    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(as_contiguous)
    try:
        yield
    finally:
        handle.remove()


def pad_left(prompts: Sequence[Tensor], pad: int, length: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left to `length` tokens: ids and attention mask, each [rows, length]."""
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros(len(prompts), length, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, length - len(prompt) :] = prompt
        mask[i, length - len(prompt) :] = 1
    return ids, mask


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before a prompt; it is masked, so any one will do."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def stop_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer."""
    # The tokenizer's end-of-text token ends the rows that models are trained on; a generation
    # config may name others.
    configured: Any = config.eos_token_id
    others = configured if isinstance(configured, list) else [configured]
    stops = {tokenizer.eos_token_id, *others}
    return {int(stop) for stop in stops if stop is not None}


def ended(
    answer: Answer, limit: int, stops: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Answer:
    """An answer of at most `limit` tokens that ends before the first text of `stops`.

    Its `ids` are those before the token that completes that text.
    """

    def text_of(count: int) -> str:
        return str(tokenizer.decode(list(answer.ids[:count]), skip_special_tokens=True))

    if len(answer.ids) > limit:
        ids = answer.ids[:limit]
        answer = Answer(text_of(limit).strip(), limit, stopped=False, ids=ids)
    if not any(stop in text_of(len(answer.ids)) for stop in stops):
        return answer
    counts = range(1, len(answer.ids) + 1)
    end = next(k for k in counts if any(stop in text_of(k) for stop in stops))
    text = text_of(end)
    first = min(text.index(stop) for stop in stops if stop in text)
    return Answer(text[:first].strip(), end, stopped=True, ids=answer.ids[: end - 1])


def cut(tokens: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    """The answer in generated `tokens`: all before the first of `stops`."""
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    return Answer(
        text=str(text).strip(),
        tokens=len(tokens) if end is None else end + 1,
        stopped=end is not None,
        ids=tuple(tokens[:end]),
    )
