"""The decoder's blocks through `torch.compile`.

Attention is not compiled, because the number and lengths of rows change in every step. The rest of
a block sees one sequence, so it is compiled once for all lengths and, as blocks differ in their
weights alone, for all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from palimpsest.engine.kernels import packing
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError, one_line

ROWS = [Row("", ids, 4) for ids in (torch.arange(1, 9), torch.arange(3, 10))]
"""Rows on which the compiled blocks are tried."""


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the forward passes of `blocks`, at their first run; hooks are not compiled."""
    AttentionInterface.register(packing.NAME, torch.compiler.disable(packing.attend))
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def try_out(hidden: Callable[[Sequence[Row]], Sequence[Tensor]], model: nn.Module) -> None:
    """Run compiled blocks forwards and backwards, as a training step does.

    Args:
        hidden: computes hidden states of rows.
        model: the model with the blocks.

    Raises:
        UserError: this machine cannot compile them.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        total = torch.cat(list(hidden(ROWS))).sum()
        if total.requires_grad:
            torch.autograd.grad(total, trained, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError) as error:
        reason = one_line(str(error).strip().partition("\n")[0])
        raise UserError(
            f"training.compile: torch.compile does not work here ({reason}); it needs a C++ "
            "compiler, and Triton for CUDA. Set training.compile: false"
        ) from error
