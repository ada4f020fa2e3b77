"""Weights that a repository has only as pickles, rewritten as safetensors.

``torch.load(weights_only=True)`` builds tensors and plain containers and runs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - only the name of an error
from typing import TYPE_CHECKING

from palimpsest.errors import UserError
from palimpsest.io.atomic import explained, write_json

if TYPE_CHECKING:
    from torch import Tensor


def convert_pickles(
    files: Mapping[str, Path],
    folder: Path,
    source: str,
    log: Callable[[str], None] = print,
) -> None:
    """Write each pickled file of weights into `folder` as safetensors, and the index for several.

    Numbers and types stay as they are; memory is needed for one file at a time.

    Args:
        files: name -> pickled file.
        folder: where the safetensors files go.
        source: the model's name in errors.
        log: receives progress lines.

    Raises:
        UserError: a file is damaged, or holds anything but tensors.
    """
    from safetensors.torch import save_file

    file_of: dict[str, str] = {}
    size = 0
    for name, path in sorted(files.items()):
        log(f"  converting {name} to safetensors")
        tensors = _without_shared_memory(_load(path, name, source))
        target = folder / name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        with explained(target):
            save_file(tensors, target, metadata={"format": "pt"})
        target.chmod(0o644)
        file_of |= dict.fromkeys(tensors, target.name)
        size += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        write_json(folder / "model.safetensors.index.json", json.loads(json.dumps(index)))


def _load(path: Path, name: str, source: str) -> dict[str, Tensor]:
    import torch

    try:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # noqa: TID251
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            tensors = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"source '{source}', {name}: refused: pickled weights that cannot be read as tensors "
            f"alone ({line}); choose a revision with safetensors, or convert them and use path:"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()
    ):
        raise UserError(f"source '{source}', {name}: refused: it is no table of named tensors")
    return tensors


def _without_shared_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Tied tensors share memory, which safetensors refuses: each becomes a copy.
    copies: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        copies[name] = tensor.contiguous() if alone else tensor.contiguous().clone()
    return copies
