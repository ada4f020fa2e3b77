"""A model whose frozen weights are spread over the processes of a job (FSDP).

Each process keeps a share of every block and gets the rest just before the block runs. What is
trained (adapters, differences) stays whole in every process, as do embeddings, last norm and head:
training, checkpoints and artifacts are the same as without shares.
"""

from __future__ import annotations

import torch
from torch import nn

from palimpsest.engine import ranks
from palimpsest.engine.body import blocks_of


def shard(network: nn.Module, device: torch.device) -> None:
    """Spread the blocks' frozen weights, if the job is to; the rest moves to `device` whole."""
    group = ranks.current()
    if not group.sharded:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh(device.type, (group.count,))
    for block in blocks_of(network.get_decoder()):  # type: ignore[operator]
        # Each block by itself: a pass may begin or end at any of them.
        whole = {p for name, p in block.named_parameters() if p.requires_grad or "lora_" in name}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for tensor in [*network.parameters(), *network.buffers()]:
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)
