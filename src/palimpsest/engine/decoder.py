"""The decoder of a causal language model, run whole or block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from palimpsest.engine.kernels.packing import Packing, packed_attention
from palimpsest.engine.rows import pad


class Padding:
    """Rows as a rectangle, padded on the right: the layout where rows cannot be packed."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Lay out rows with these numbers of tokens."""
        self.lengths = lengths

    def batch(self, rows: Sequence[Tensor]) -> Tensor:
        """The rows' values per token: [rows][length, ...] to [rows, longest, ...]."""
        return pad(rows)

    def by_row(self, values: Tensor) -> list[Tensor]:
        """The values of each row, without padding: the inverse of `batch`."""
        return [row[:length] for row, length in zip(values, self.lengths, strict=True)]


class Decoder:
    """Runs some or all blocks of a decoder.

    Args:
        module: the decoder of a `transformers` causal language model.

    Attributes:
        module: the same.
        blocks: its blocks.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.blocks = blocks_of(module)

    @property
    def has_usual_names(self) -> bool:
        """Whether its blocks are called ``layers`` and its last norm ``norm``, as `run` needs."""
        layers = getattr(self.module, "layers", None)
        return isinstance(layers, nn.ModuleList) and hasattr(self.module, "norm")

    def run(
        self,
        inputs: Mapping[str, Tensor],
        first: int = 0,
        end: int | None = None,
        layout: Padding | Packing | None = None,
    ) -> Tensor:
        """Run the blocks from `first` up to `end`.

        Args:
            inputs: ``input_ids`` [rows, length] or ``inputs_embeds`` [rows, length, width].
            first: the first block that runs.
            end: the block before which the pass ends; None: all blocks and the last norm run.
            layout: how the rows lie in the inputs; None: rows of one length, unpacked.

        Returns:
            Hidden states [rows, length, width].
        """
        with self._only(first, end):
            if not isinstance(layout, Packing):
                return self.module(**inputs, use_cache=False).last_hidden_state
            inputs = {**inputs, "position_ids": layout.positions}
            with packed_attention(self.module.config):
                return self.module(**inputs, packing=layout, use_cache=False).last_hidden_state

    @contextlib.contextmanager
    def _only(self, first: int, end: int | None) -> Iterator[None]:
        if first == 0 and end is None:
            yield
            return
        layers, norm = self.module.layers, self.module.norm
        try:
            self.module.layers = layers[first:end]
            if end is not None:
                self.module.norm = nn.Identity()
            yield
        finally:
            self.module.layers, self.module.norm = layers, norm


class _LastRead(Exception):
    """Ends a forward pass after the highest block that is read."""


def run_and_capture(
    run: Callable[[], Tensor],
    blocks: nn.ModuleList,
    outputs_of: Collection[int],
    input_of: int | None = None,
    stop_after: int | None = None,
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """Run a decoder and keep the states between its blocks.

    Args:
        run: the forward pass.
        blocks: the decoder's blocks.
        outputs_of: indices of the blocks whose outputs are kept.
        input_of: index of the block whose input is kept, too, under the key -1.
        stop_after: index of the block after which the pass ends.

    Returns:
        What `run` returns (None if the pass ended earlier), and block -> states.
    """
    states: dict[int, Tensor] = {}

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[-1] = args[0] if args else kwargs["hidden_states"]

    def keep_output(block: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states[block] = output[0] if isinstance(output, tuple) else output
            if block == stop_after:
                raise _LastRead

        return hook

    handles = [blocks[block].register_forward_hook(keep_output(block)) for block in outputs_of]
    if input_of is not None:
        entry = blocks[input_of]
        handles.append(entry.register_forward_pre_hook(keep_input, with_kwargs=True))
    try:
        return run(), states
    except _LastRead:
        return None, states
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def changed_output(block: nn.Module, added: Tensor) -> Iterator[None]:
    """Within the block, `added` is added to a decoder block's output, whoever reads it."""

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        moved = (states + added.to(states.device)).to(states.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def blocks_of(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's blocks, whatever the list is called."""
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    blocks = getattr(decoder, "layers", None) or max(lists, key=len, default=nn.ModuleList())
    return cast("nn.ModuleList", blocks)
