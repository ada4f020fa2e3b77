"""The trained model as the engine sees it: rows go in, hidden states come out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from palimpsest.engine import ranks
from palimpsest.engine.decoder import Decoder, Padding, changed_output, run_and_capture
from palimpsest.engine.kernels.compiled import compile_blocks, try_out
from palimpsest.engine.kernels.packing import Packing
from palimpsest.engine.kernels.patch import keep_less
from palimpsest.engine.kernels.recompute import recompute_blocks
from palimpsest.engine.logits import head_of
from palimpsest.engine.prefixes import PrefixCache
from palimpsest.engine.probe import report_off, why_not_pack, why_not_split
from palimpsest.engine.rows import Row, length_groups
from palimpsest.errors import UserError
from palimpsest.limits import PASS_TOKENS
from palimpsest.model.whole import why_not
from palimpsest.settings.draw import Reads

FINAL = Reads()
"""What most objectives read: the final hidden states."""


@dataclass(frozen=True)
class States:
    """Hidden states of one row.

    Attributes:
        final: after the last norm, [length, width]; empty if the pass ended earlier.
        blocks: block -> its output, [length, width]; -1: the input of the first trained block.
    """

    final: Tensor
    blocks: dict[int, Tensor]


class Body:
    """Runs a causal language model over rows, up to its last norm.

    Args:
        model: a `transformers` causal language model, with or without PEFT layers.
        first_trained: index of the first block with trained weights.
        recompute: recompute the blocks' activations in the backward pass (less memory).
        compiled: run the blocks from `first_trained` on through `torch.compile`.

    Attributes:
        head: the language-model head, with what the architecture does to its output.
        lowest: index of the first block with trained weights.
        first_trained: the same if the blocks below it run apart and their outputs are kept, else 0.
        packs: whether rows are packed into one sequence.

    Raises:
        UserError: `compiled`, and this machine cannot compile; or the architecture is one that the
            engine cannot run.
    """

    def __init__(
        self,
        model: nn.Module,
        first_trained: int = 0,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        if why := why_not(model):
            raise UserError(f"{type(model).__name__} is not supported: {why}")
        self.decoder = Decoder(model.get_decoder())  # type: ignore[operator]
        self.head = cast("Any", head_of(model, self.decoder))
        weight: Tensor = self.head.weight
        self.device, self.vocabulary = weight.device, len(weight)
        # With sharded weights (FSDP) a block runs in all processes or in none, so each process
        # makes exactly one pass over its rows, through all blocks.
        self._one_pass = ranks.current().sharded
        self.lowest = first_trained
        self.first_trained = first_trained if self._splits(first_trained) else 0
        reason = why_not_pack(self.decoder, self.vocabulary, self.device)
        if reason:
            report_off("packing", reason)
        self.packs = reason is None
        for block in self.decoder.blocks:
            keep_less(block)
        if compiled:
            compile_blocks(self.decoder.blocks[self.first_trained :])
        if recompute:
            recompute_blocks(self.decoder.module)
        self._prefixes = PrefixCache(self._run_equal, weight.shape[1] * weight.element_size())
        self._last_prefixes: dict[Row, Tensor] = {}
        self._added: tuple[int, Mapping[Row, Tensor]] | None = None
        if compiled:
            try_out(self.hidden, model)

    def _splits(self, first: int) -> bool:
        if self._one_pass or not 0 < first < len(self.decoder.blocks):
            return False
        reason = why_not_split(self.decoder, first, self.device)
        if reason:
            report_off("keeping the output of frozen blocks", reason)
        return reason is None

    def keep(self, rows: Sequence[Row]) -> None:
        """Announce rows that will come again; see `PrefixCache.announce`."""
        self._prefixes.announce(rows)

    @contextlib.contextmanager
    def adding(self, block: int, values: Mapping[Row, Tensor]) -> Iterator[None]:
        """Within the block, passes add to the output of a trained block.

        Args:
            block: whose output.
            values: [length, width] for each of some rows; rows must not be packed then.
        """
        self._added = (block, values) if values else None
        try:
            yield
        finally:
            self._added = None

    def hidden(self, rows: Sequence[Row]) -> list[Tensor]:
        """Final hidden states of each row, [length, width]; see `states`."""
        return [state.final for state in self.states(rows)]

    def states(
        self, rows: Sequence[Row], reads: Reads = FINAL, same_rows: bool = False
    ) -> list[States]:
        """Hidden states of each row, in order.

        All rows share one forward pass without padding, and rows with the same prompt share that.
        If the architecture cannot pack rows, those of similar length share a padded pass.

        Args:
            rows: the rows; prefixes of those announced to `keep` are kept.
            reads: the states to return; the pass ends at the highest of them.
            same_rows: the last call had these rows, too, so their frozen blocks need not run again.

        Raises:
            UserError: `reads` names a block that the model does not have.
        """
        blocks = self.read_blocks(reads)
        prefixes = self._entering(rows, same_rows) if self.first_trained else None
        states: dict[int, States] = {}
        for group in self._passes(rows):
            layout = self._layout([rows[i] for i in group])
            if prefixes is None:
                ids = layout.batch([rows[i].ids for i in group])
                inputs = {"input_ids": ids.to(self.device)}
            else:
                inputs = {"inputs_embeds": layout.batch([prefixes[i] for i in group])}
            with self._moved([rows[i] for i in group], layout):
                final, by_block = self._read(inputs, layout, blocks, reads)
            for place, i in enumerate(group):
                outputs = {block: of_rows[place] for block, of_rows in by_block.items()}
                states[i] = States(final[place] if final else torch.empty(0), outputs)
        return [states[i] for i in range(len(rows))]

    def _read(
        self,
        inputs: dict[str, Tensor],
        layout: Padding | Packing,
        blocks: set[int],
        reads: Reads,
    ) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
        """Run one pass through the trained blocks.

        Returns:
            Final states of each row (an empty list if the pass ended earlier), and block -> its
            output for each row.
        """
        final, outputs = run_and_capture(
            lambda: self.decoder.run(inputs, self.first_trained, layout=layout),
            self.decoder.blocks,
            outputs_of=blocks - {-1},
            input_of=self.lowest if -1 in blocks else None,
            stop_after=reads.last,
        )
        by_block = {block: layout.by_row(output) for block, output in outputs.items()}
        return [] if final is None else layout.by_row(final), by_block

    @contextlib.contextmanager
    def _moved(self, rows: Sequence[Row], layout: Padding | Packing) -> Iterator[None]:
        if self._added is None or not any(row in self._added[1] for row in rows):
            yield
            return
        block, values = self._added
        one = next(iter(values.values()))
        nothing = {row: one.new_zeros(len(row), one.shape[1]) for row in rows}
        added = layout.batch([values.get(row, nothing[row]) for row in rows])
        with changed_output(self.decoder.blocks[block], added):
            yield

    def read_blocks(self, reads: Reads) -> set[int]:
        """Blocks whose outputs are read; -1: the input of the first trained block.

        Raises:
            UserError: `reads` names a block that the model does not have, or below training.
        """
        count = len(self.decoder.blocks)
        for block in reads.blocks:
            if not self.lowest <= block < count:
                raise UserError(
                    f"block {block} is read, but the model has blocks 0 to {count - 1} "
                    f"and training begins at block {self.lowest}; choose one of {self.lowest} to "
                    f"{count - 1} for the method's layer or blocks"
                )
        if not reads.all_levels:
            return set(reads.blocks)
        if reads.last is None:
            return {-1, *range(self.lowest, count - 1), *reads.blocks}
        return set(range(self.lowest, reads.last + 1))

    def _passes(self, rows: Sequence[Row]) -> list[list[int]]:
        if rows and (self._one_pass or self.packs):
            return [list(range(len(rows)))]
        return length_groups([len(row) for row in rows], PASS_TOKENS[self.device.type])

    def _layout(self, rows: Sequence[Row]) -> Padding | Packing:
        if self.packs:
            return Packing.of(rows, self.device)
        return Padding([len(row) for row in rows])

    @torch.no_grad()
    def _entering(self, rows: Sequence[Row], same_rows: bool) -> list[Tensor]:
        """What enters the first trained block, for each row, [length, width]."""
        last = self._last_prefixes
        prefixes = {row: last[row] for row in rows if same_rows and row in last}
        prefixes |= {row: self._prefixes[row] for row in rows if row in self._prefixes}
        missing = [row for row in dict.fromkeys(rows) if row not in prefixes]
        for group in self._passes(missing):
            members = [missing[i] for i in group]
            states = self._run_frozen(members, self._layout(members))
            prefixes |= dict(zip(members, states, strict=True))
        self._last_prefixes = prefixes
        return [prefixes[row] for row in rows]

    def _run_equal(self, rows: Sequence[Row]) -> list[Tensor]:
        return self._run_frozen(rows, self._layout(rows))

    def _run_frozen(self, rows: Sequence[Row], layout: Padding | Packing) -> list[Tensor]:
        ids = layout.batch([row.ids for row in rows]).to(self.device)
        inputs = {"input_ids": ids}
        return layout.by_row(self.decoder.run(inputs, end=self.first_trained, layout=layout))
