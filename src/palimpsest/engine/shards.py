"""Sharding: the frozen weights are spread over the processes of a job (FSDP).

Each process keeps a share of every block and gets the rest just before the block runs. Trained
tensors (adapters, differences), embeddings, last norm and head stay whole in every process. So
training, checkpoints and artifacts are the same as without sharding.
"""

from __future__ import annotations

import torch
from torch import nn

from palimpsest.engine import ranks
from palimpsest.engine.decoder import blocks_of


def shard(network: nn.Module, device: torch.device) -> None:
    """Shard the blocks' frozen weights, if the job shares them; move the rest to `device`."""
    group = ranks.current()
    if not group.sharded:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh(device.type, (group.count,))
    for block in blocks_of(network.get_decoder()):  # type: ignore[operator]
        # Each block is sharded by itself, because a pass may begin or end at any of them.
        unsharded = {
            p for name, p in block.named_parameters() if p.requires_grad or "lora_" in name
        }
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=unsharded)
    for tensor in [*network.parameters(), *network.buffers()]:
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)
