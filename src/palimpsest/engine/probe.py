"""Which short cuts an architecture takes: each is tried on a few tokens and compared.

A short cut that gives other states is left out. Training is slower then, and the same otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.engine import ranks
from palimpsest.engine.decoder import Decoder
from palimpsest.engine.kernels.packing import Packing
from palimpsest.engine.rows import Row
from palimpsest.errors import one_line


@torch.no_grad()
def why_not_split(decoder: Decoder, first: int, device: torch.device) -> str | None:
    """Why the blocks below `first` cannot run apart from the others; None if they can.

    Learned positions or a mixture of attention layers may prevent it.
    """
    if not decoder.has_usual_names:
        return "its blocks or its last norm have other names"
    # The index distinguishes such blocks, and a split would shift it. The row below is shorter than
    # a sliding window, so it would not show the difference.
    if len(set(getattr(decoder.module.config, "layer_types", None) or ())) > 1:
        return "its blocks are of several kinds"
    ids = torch.arange(1, 9, device=device)[None]
    in_one_pass = decoder.run({"input_ids": ids})
    lower = decoder.run({"input_ids": ids}, end=first)
    split = decoder.run({"inputs_embeds": lower}, first)
    return None if torch.equal(in_one_pass, split) else "blocks that run apart give other states"


@torch.no_grad()
def why_not_pack(decoder: Decoder, vocabulary: int, device: torch.device) -> str | None:
    """Why rows cannot be packed into one sequence; None if they can.

    Three rows, of which two share a prompt, run packed and one by one. Their tokens are ordinary
    ones: after special tokens two forms rarely agree in half precision.
    """
    tokens = (torch.arange(9) + vocabulary // 2) % vocabulary
    rows = [Row("", ids, 4) for ids in (tokens[:8], tokens[2:])]
    rows.append(Row("", torch.cat([rows[0].prompt, rows[1].response]), 4))
    packing = Packing.of(rows, device)
    ids = packing.batch([row.ids for row in rows]).to(device)
    try:
        packed = packing.by_row(decoder.run({"input_ids": ids}, layout=packing))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture makes of an argument that it ignores
        reason = one_line(str(error).strip().partition("\n")[0], 100)
        return f"its attention cannot be replaced ({reason})"
    # These rows are too short to show a limit that only the mask holds.
    config = decoder.module.config
    if getattr(config, "attention_chunk_size", None) or (
        getattr(config, "sliding_window", None) and not packing.windowed_layers
    ):
        return "only its mask limits how far attention looks back"
    alone = [decoder.run({"input_ids": row.ids[None].to(device)})[0] for row in rows]
    if len(packing.modules) < len(decoder.blocks):
        return "some blocks have another attention"
    limit = torch.finfo(alone[0].dtype).eps ** 0.5
    # A mistake reaches every later token, a rounding error may grow at a single one: hence the
    # median.
    errors = [
        ((a - b).norm(dim=-1) / b.norm(dim=-1))[4:].median()
        for a, b in zip(packed, alone, strict=True)
    ]
    if max(errors) < limit or (
        _has_experts(config) and _attention_agrees(decoder, rows, device, packing, limit)
    ):
        return None
    return "packed rows get other states"


def _has_experts(config: Any) -> bool:
    numbers = (value for key, value in vars(config).items() if "experts" in key)
    return any(isinstance(number, int) and number > 1 for number in numbers)


def _attention_agrees(
    decoder: Decoder, rows: Sequence[Row], device: torch.device, packing: Packing, limit: float
) -> bool:
    """Whether every attention layer gives packed rows what it gives each row alone.

    The last bit of a state may choose another expert, after which states have nothing in common.
    So each block gets the inputs of the rows that run alone.
    """
    layers = list(packing.modules)
    inputs: list[list[Tensor]] = []
    outputs: list[list[Tensor]] = []
    for row in rows:
        with _observed(decoder.blocks, layers) as (entering, leaving):
            decoder.run({"input_ids": row.ids[None].to(device)})
        inputs.append([states[0] for states in entering])
        outputs.append([states[0] for states in leaving])
    again = Packing.of(rows, device)
    forced = [again.batch(states) for states in zip(*inputs, strict=True)]
    ids = again.batch([row.ids for row in rows]).to(device)
    with _observed(decoder.blocks, layers, forced) as (_, leaving):
        decoder.run({"input_ids": ids}, layout=again)
    packed = [again.by_row(states) for states in leaving]
    return all(
        (a - b).norm() <= limit * b.norm()
        for layer, alone in zip(packed, zip(*outputs, strict=True), strict=True)
        for a, b in zip(layer, alone, strict=True)
    )


@contextlib.contextmanager
def _observed(
    blocks: nn.ModuleList, layers: Sequence[nn.Module], forced: Sequence[Tensor] | None = None
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """What enters each block and leaves each of `layers`; with `forced`, that enters instead."""
    entering: list[Tensor] = []
    leaving: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entering.append(args[0] if args else kwargs["hidden_states"])
        if forced is None:
            return None
        states = forced[len(entering) - 1]
        return ((states, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": states})

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        leaving.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield entering, leaving
    finally:
        for handle in handles:
            handle.remove()


@functools.cache
def report_off(short_cut: str, reason: str) -> None:
    """Print once, in the first process, that a short cut is off."""
    if not ranks.current().rank:
        print(f"{short_cut} is off for this architecture: {reason}", file=sys.stderr, flush=True)
