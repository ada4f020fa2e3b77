"""Task-vector negation on whole models: five state dicts in memory."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def negate(original: Path, trained: Path, out: Path, scale: float) -> None:
    """Write ``theta_o - scale (theta_m - theta_o)`` in the shards of `original`.

    Args:
        original: folder of theta_o, in safetensors.
        trained: folder of theta_m, in files of the same names.
        out: where to write.
        scale: lambda.
    """
    before, after = state_dict(original), state_dict(trained)
    vector = {name: after[name] - tensor for name, tensor in before.items()}
    negative = {name: -tensor for name, tensor in vector.items()}
    unlearned = {name: tensor + scale * negative[name] for name, tensor in before.items()}
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(original.glob("*.safetensors")):
        save_file({name: unlearned[name] for name in load_file(file)}, out / file.name)


def state_dict(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model's files, in memory."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.clone() for name, tensor in load_file(file).items()}
    return tensors
