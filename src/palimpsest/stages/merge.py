"""Merge: the unlearned model as a Hugging Face folder, for transformers, vLLM, converters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from palimpsest.engine.progress import Progress
from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_path
from palimpsest.io.manifest import read_manifest, verified, write_manifest
from palimpsest.model.adapter import Update, read_adapter
from palimpsest.model.delta import read_deltas
from palimpsest.model.description import MODEL

Change = Callable[[Tensor], Tensor]
"""From a base tensor (fp32) to the merged one."""


def merge(base: Path, model: Path, out: Path, label: str, fp32: bool = False) -> None:
    """Write base + update, shard by shard, arithmetic in fp32, each tensor in its own type.

    Args:
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        out: ``results/<model>/<method>/seed-<seed>/merged``.
        label: what progress lines call it.
        fp32: write every tensor in fp32 instead: a narrower type would round the sum.

    Raises:
        UserError: an input is missing or altered.
    """
    files = list(read_manifest(base)["files"])
    description = read_manifest(model, MODEL)
    kinds = description["kind"].split("+")
    updates = read_adapter(model, MODEL) if "adapter" in kinds else {}
    changes: dict[str, Change] = {
        f"{name}.weight": partial(apply, update=update) for name, update in updates.items()
    }
    for name, delta in (read_deltas(model, MODEL) if "delta" in kinds else {}).items():
        changes[name] = partial(_both, first=partial(add, delta=delta), then=changes.get(name))
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(label, len(files))
    left = set(changes)
    for count, file in enumerate(files, 1):
        source = verified(base, file)
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".safetensors"):
            left -= _merge_shard(source, out / file, changes, fp32)
        else:
            shutil.copyfile(source, out / file)
        progress.update(count)
    if left:
        raise UserError(
            f"{base} has no tensor {sorted(left)[0]}: its files name tensors otherwise than "
            "the model does, and cannot be merged"
        )
    write_manifest(out, files, merged_from=description["base_manifest"])


def _merge_shard(source: Path, target: Path, changes: Mapping[str, Change], fp32: bool) -> set[str]:
    tensors: dict[str, Tensor] = {}
    merged = set()
    # Some repositories leave out the first component ("model.", "transformer.").
    names = {name.partition(".")[2]: name for name in changes} | {name: name for name in changes}
    with safe_open(source, framework="pt") as shard:
        for key in shard.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            tensor = shard.get_tensor(key)
            kind = torch.float32 if fp32 and tensor.is_floating_point() else tensor.dtype
            if (name := names.get(key)) is not None:
                tensor = changes[name](_wide(tensor))
                merged.add(name)
            tensors[key] = tensor.to(kind)
        metadata = shard.metadata()
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return merged


def apply(weight: Tensor, update: Update) -> Tensor:
    """W + scale * B A, in fp32 or the wider type of `weight`."""
    return _wide(weight) + update.scale * (update.b.float() @ update.a.float())


def add(weight: Tensor, delta: Tensor) -> Tensor:
    """W + delta, in fp32 or the wider type of `weight`."""
    return _wide(weight) + delta


def _both(weight: Tensor, first: Change, then: Change | None) -> Tensor:
    changed = first(weight)
    return then(changed) if then else changed


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
