"""Recomputation of the blocks' activations in the backward pass: less memory, more time.

The gradient checkpointing of transformers works in training mode alone, which would switch dropout
on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from palimpsest.engine.kernels.packing import attention_by


def recompute_blocks(decoder: Any) -> None:
    """Let every block of a decoder keep its input alone for the backward pass."""
    for blocks in decoder.children():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                block.forward = _recomputed(block.forward, decoder.config)


def _recomputed(forward: Callable[..., Any], config: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # In the backward pass the model has its own attention again, so the one of now is put back.
        attention = config._attn_implementation
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (contextlib.nullcontext(), attention_by(config, attention)),
            **kwargs,
        )

    return run
