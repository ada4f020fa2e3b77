"""The decoder's blocks as `torch.compile` makes them.

Attention stays outside: how many rows there are, and how long, is new in every step. What is around
it sees one sequence, so it is compiled once for every length and, as blocks differ in their weights
alone, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from palimpsest.engine import packing
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError, one_line

ROWS = [Row("", ids, 4) for ids in (torch.arange(1, 9), torch.arange(3, 10))]
"""What is compiled is tried on these."""


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let blocks run compiled code, which is made when they first run; hooks stay outside."""
    AttentionInterface.register(packing.NAME, torch.compiler.disable(packing.attend))
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def try_out(hidden: Callable[[Sequence[Row]], Sequence[Tensor]], model: nn.Module) -> None:
    """Run compiled blocks forwards and backwards, as a step of training will.

    Args:
        hidden: hidden states of rows.
        model: where the blocks are.

    Raises:
        UserError: they cannot be compiled on this machine.
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
