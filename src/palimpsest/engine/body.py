"""The decoder as the engine uses it: rows in, hidden states out.

Blocks below the first trained one are frozen: their output is a constant of the row, so it is
computed once and kept (`prefix`). Training on the upper third of the blocks then costs a third.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palimpsest.config.draw import Reads
from palimpsest.engine import packing as packs
from palimpsest.engine import ranks
from palimpsest.engine.compiled import compile_blocks, try_out
from palimpsest.engine.lean import keep_less
from palimpsest.engine.packing import Packing
from palimpsest.engine.rows import Row, length_groups, pad
from palimpsest.errors import UserError
from palimpsest.limits import PREFIX_BYTES

PREFIX_ROWS = 16
"""Rows whose prefixes are computed together."""


FINAL = Reads()
"""What most objectives read: the final hidden states."""


class _Reached(Exception):
    """Ends a forward pass at the highest block that is read."""


@dataclass(frozen=True)
class States:
    """Hidden states of one row.

    Attributes:
        final: after the last norm, [length, width]; empty if the pass ended earlier.
        blocks: block -> its output, [length, width]; -1: what enters the first trained block.
    """

    final: Tensor
    blocks: dict[int, Tensor]


class Body:
    """Runs a causal language model's decoder over rows.

    Args:
        model: a `transformers` causal language model, with or without PEFT layers.
        first_trained: index of the first block with trained weights (0: no prefix is kept).
        recompute: recompute the blocks' activations in the backward pass (less memory).
        compiled: run the blocks from `first_trained` on through `torch.compile`.

    Raises:
        UserError: `compiled`, and this machine cannot compile.
    """

    def __init__(
        self,
        model: nn.Module,
        first_trained: int = 0,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        self.decoder = model.get_decoder()  # type: ignore[operator]
        self.head = model.get_output_embeddings()  # type: ignore[operator]
        weight = self.head.weight
        self.device, self.vocabulary = weight.device, len(weight)
        self.layers = blocks_of(self.decoder)
        # Spread over processes (FSDP), a block runs in all of them or in none: so each makes one
        # pass over its rows, and none over a part of the blocks.
        self._one_pass = ranks.current().sharded
        # What is trained begins here, whether or not the blocks below can be run apart.
        self.lowest = self.first_trained = first_trained
        if self._one_pass or not self._splits():
            self.first_trained = 0
        self.packs = self._packs()
        for layer in self.layers:
            keep_less(layer)
        if compiled:
            compile_blocks(self.layers[self.first_trained :])
        if recompute:
            _recompute_blocks(self.decoder)
        self._groups: dict[Row, list[Row]] = {}
        self._prefixes: dict[Row, Tensor] = {}
        self._last: dict[Row, Tensor] = {}
        self._bytes = 0
        if compiled:
            try_out(self.hidden, model)

    def keep(self, rows: Sequence[Row]) -> None:
        """Announce rows that will come again: their prefixes are kept while there is room.

        The prefixes of rows of one length share a pass.
        """
        by_length: dict[int, list[Row]] = {}
        for row in rows:
            by_length.setdefault(len(row), []).append(row)
        for length, same in sorted(by_length.items()):
            for first in range(0, len(same), PREFIX_ROWS):
                group = same[first : first + PREFIX_ROWS]
                weight = self.head.weight
                self._bytes += len(group) * length * weight.shape[1] * weight.element_size()
                if self._bytes > PREFIX_BYTES:
                    return
                self._groups |= dict.fromkeys(group, group)

    def hidden(self, rows: Sequence[Row], made: Sequence[Row] = ()) -> list[Tensor]:
        """Final hidden states of each row, [length, width]; see `states`."""
        return [state.final for state in self.states(rows, made)]

    def states(
        self,
        rows: Sequence[Row],
        made: Sequence[Row] = (),
        reads: Reads = FINAL,
        again: bool = False,
    ) -> list[States]:
        """Hidden states of each row, in the order of `rows`, then `made`.

        All rows share a forward pass without padding, and rows with the same prompt share that;
        where the architecture cannot, rows of similar length share a pass.

        Args:
            rows: rows of the data; the prefixes of those announced to `keep` are kept.
            made: rows made for this call alone.
            reads: the states that are wanted; the pass ends at the highest of them.
            again: the call before had these rows, too: the frozen blocks need not run again.

        Raises:
            UserError: a block is asked for that the model does not have.
        """
        every = [*rows, *made]
        entering = self._entering(every, again) if self.first_trained else None
        if self.packs:
            return self._packed(every, entering, reads)
        found: dict[int, States] = {}
        for group in self._passes(every):
            if entering is None:
                inputs = {"input_ids": self._padded([every[i] for i in group])}
            else:
                inputs = {"inputs_embeds": pad([entering[i] for i in group])}
            final, blocks = self._read(inputs, reads)
            for place, i in enumerate(group):
                n = len(every[i])
                levels = {block: output[place][:n] for block, output in blocks.items()}
                found[i] = States(torch.empty(0) if final is None else final[place][:n], levels)
        return [found[i] for i in range(len(every))]

    def _packed(
        self, rows: Sequence[Row], entering: Sequence[Tensor] | None, reads: Reads
    ) -> list[States]:
        packing = Packing.of(rows, self.device)
        if entering is None:
            inputs = {"input_ids": packing.packed([row.ids for row in rows]).to(self.device)}
        else:
            inputs = {"inputs_embeds": packing.packed(entering)}
        final, blocks = self._read(inputs, reads, packing)
        finals = [torch.empty(0)] * len(rows) if final is None else packing.unpacked(final)
        levels = {block: packing.unpacked(output) for block, output in blocks.items()}
        return [
            States(state, {block: outputs[i] for block, outputs in levels.items()})
            for i, state in enumerate(finals)
        ]

    def _passes(self, rows: Sequence[Row]) -> list[list[int]]:
        if rows and (self._one_pass or self.packs):
            return [list(range(len(rows)))]
        return length_groups([len(row) for row in rows])

    def _read(
        self, inputs: dict[str, Tensor], reads: Reads, packing: Packing | None = None
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        """Run the trained blocks; final states (or None) and outputs of single blocks."""
        wanted = self._wanted(reads)
        last = None if reads.final or not wanted else max(wanted)
        upper = slice(self.first_trained, None)
        with self._blocks(upper), self._captured(wanted, last) as outputs:
            try:
                return self._decode(packing, **inputs), outputs
            except _Reached:
                return None, outputs

    def _wanted(self, reads: Reads) -> set[int]:
        wanted = set(reads.blocks)
        if reads.every:
            wanted |= {-1, *range(self.lowest, len(self.layers) - 1)}
        for block in wanted - {-1}:
            if not self.lowest <= block < len(self.layers):
                raise UserError(
                    f"block {block} is read, but the model has blocks 0 to {len(self.layers) - 1} "
                    f"and training begins at block {self.lowest}; choose one of {self.lowest} to "
                    f"{len(self.layers) - 1}"
                )
        return wanted

    @contextlib.contextmanager
    def _captured(self, wanted: set[int], last: int | None) -> Iterator[dict[int, Tensor]]:
        # Hooks fill the dictionary, and end the pass after the block `last`.
        outputs: dict[int, Tensor] = {}

        def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            outputs[-1] = args[0] if args else kwargs["hidden_states"]

        def left(block: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                outputs[block] = output[0] if isinstance(output, tuple) else output
                if block == last:
                    raise _Reached

            return hook

        handles = [self.layers[block].register_forward_hook(left(block)) for block in wanted - {-1}]
        if -1 in wanted:
            entry = self.layers[self.lowest]
            handles.append(entry.register_forward_pre_hook(entered, with_kwargs=True))
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _entering(self, rows: Sequence[Row], again: bool) -> list[Tensor]:
        # What enters the first trained block, for each row.
        found = {row: self._last[row] for row in rows if again and row in self._last}
        found |= {row: self._prefix(row) for row in rows if row in self._groups}
        new = [row for row in dict.fromkeys(rows) if row not in found]
        for group in self._passes(new):
            members = [new[i] for i in group]
            found |= dict(zip(members, self._below(members), strict=True))
        self._last = found
        return [found[row] for row in rows]

    def _below(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        # What enters the first trained block, for rows that share a pass.
        if self.packs:
            packing = Packing.of(rows, self.device)
            ids = packing.packed([row.ids for row in rows]).to(self.device)
            return packing.unpacked(self._lower(ids, packing))
        padded = self._lower(self._padded(rows))
        return [prefix[: len(row)] for row, prefix in zip(rows, padded, strict=True)]

    def _padded(self, rows: Sequence[Row]) -> Tensor:
        return pad([row.ids for row in rows]).to(self.device)

    def _prefix(self, row: Row) -> Tensor:
        if row not in self._prefixes:
            # Rows of one length are computed together. Which ones is settled by `keep`, so a
            # prefix does not depend on the batch that asks or on where a killed run resumed.
            group = self._groups[row]
            prefixes = self._lower(self._padded(group))
            self._prefixes |= dict(zip(group, prefixes, strict=True))
        return self._prefixes[row]

    def _lower(self, ids: Tensor, packing: Packing | None = None) -> Tensor:
        # What enters the first trained block, [rows, length, width].
        with self._blocks(slice(0, self.first_trained), last=False):
            return self._decode(packing, input_ids=ids)

    def _decode(self, packing: Packing | None = None, **inputs: Tensor) -> Tensor:
        if packing is None:
            return self.decoder(**inputs, use_cache=False).last_hidden_state
        inputs["position_ids"] = packing.positions
        with packs.attention_of(self.decoder.config):
            return self.decoder(**inputs, packing=packing, use_cache=False).last_hidden_state

    @contextlib.contextmanager
    def _blocks(self, which: slice, last: bool = True) -> Iterator[None]:
        # The decoder with some of its blocks, and without its final norm unless `last`.
        if which == slice(0, None) and last:
            yield
            return
        layers, norm = self.decoder.layers, self.decoder.norm
        try:
            self.decoder.layers = layers[which]
            if not last:
                self.decoder.norm = nn.Identity()
            yield
        finally:
            self.decoder.layers, self.decoder.norm = layers, norm

    @torch.no_grad()
    def _splits(self) -> bool:
        # Not every architecture lets its blocks run apart (learned positions, mixed attention):
        # compare one row both ways and keep prefixes only where they are the same.
        layers = getattr(self.decoder, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not hasattr(self.decoder, "norm"):
            return False
        if not 0 < self.first_trained < len(layers):
            return False
        # Blocks of several kinds are told apart by their index, which a split would shift; a row
        # shorter than a sliding window would not show it.
        if len(set(getattr(self.decoder.config, "layer_types", None) or ())) > 1:
            return False
        ids = torch.arange(1, 9, device=self.device)[None]
        whole = self._decode(input_ids=ids)
        entering = self._lower(ids)
        with self._blocks(slice(self.first_trained, None)):
            return bool(torch.equal(whole, self._decode(inputs_embeds=entering)))

    @torch.no_grad()
    def _packs(self) -> bool:
        # Not every architecture lets its attention be replaced: compare rows both ways, of which
        # two share their prompt, and pack only where they are the same. The tokens are ordinary
        # ones: after special ones hardly two forms agree in half precision.
        tokens = (torch.arange(9) + self.vocabulary // 2) % self.vocabulary
        rows = [Row("", ids, 4) for ids in (tokens[:8], tokens[2:])]
        rows.append(Row("", torch.cat([rows[0].prompt, rows[1].response]), 4))
        packing = Packing.of(rows, self.device)
        ids = packing.packed([row.ids for row in rows]).to(self.device)
        try:
            found = packing.unpacked(self._decode(packing, input_ids=ids))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, KeyError):
            return False
        # Rows as short as these do not show what a mask alone hides from a longer one.
        config = self.decoder.config
        if getattr(config, "attention_chunk_size", None) or (
            getattr(config, "sliding_window", None) and not packing.windowed
        ):
            return False
        alone = [self._decode(input_ids=row.ids[None].to(self.device))[0] for row in rows]
        if packing.seen < len(self.layers):
            return False
        limit = torch.finfo(alone[0].dtype).eps ** 0.5
        # What goes wrong reaches every later token; roundings may grow at a single one.
        errors = [
            ((a - b).norm(dim=-1) / b.norm(dim=-1))[4:].median()
            for a, b in zip(found, alone, strict=True)
        ]
        return bool(max(errors) < limit)


def blocks_of(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's blocks, whatever the list is called."""
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    found = getattr(decoder, "layers", None) or max(lists, key=len, default=nn.ModuleList())
    return cast("nn.ModuleList", found)


def _recompute_blocks(decoder: Any) -> None:
    # transformers' own gradient checkpointing works in training mode alone, which would switch
    # dropout on.
    for blocks in decoder.children():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                block.forward = _recomputed(block.forward, decoder.config)


def _recomputed(forward: Callable[..., Any], config: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # The backward pass comes after `attention_of` has ended.
        again = functools.partial(packs.attention_of, config, config._attn_implementation)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (contextlib.nullcontext(), again()),
            **kwargs,
        )

    return run
