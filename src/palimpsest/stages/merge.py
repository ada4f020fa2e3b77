"""Merge: the unlearned model as a Hugging Face folder, for transformers, vLLM, converters."""

from __future__ import annotations

import json
import shutil
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
from palimpsest.model.description import MODEL


def merge(base: Path, model: Path, out: Path, label: str) -> None:
    """Write base + update, shard by shard, arithmetic in fp32, each tensor in its own type.

    Args:
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        out: ``results/<model>/<method>/seed-<seed>/merged``.
        label: what progress lines call it.

    Raises:
        UserError: an input is missing or altered.
    """
    files = list(read_manifest(base)["files"])
    kind = read_manifest(model, MODEL)["kind"]
    updates = read_adapter(model, MODEL) if kind == "adapter" else {}
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(label, len(files))
    left = set(updates)
    for count, file in enumerate(files, 1):
        source = verified(base, file)
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".safetensors"):
            left -= _merge_shard(source, out / file, updates)
        else:
            shutil.copyfile(source, out / file)
        progress.update(count)
    if left:
        raise UserError(
            f"{base} has no tensor of {sorted(left)[0]}: its files name tensors otherwise than "
            "the model does, and cannot be merged"
        )
    write_manifest(out, files, merged_from=json.loads((model / MODEL).read_text())["base_manifest"])


def _merge_shard(source: Path, target: Path, updates: dict[str, Update]) -> set[str]:
    tensors: dict[str, Tensor] = {}
    merged = set()
    names = {name.partition(".")[2]: name for name in updates} | {name: name for name in updates}
    with safe_open(source, framework="pt") as shard:
        for key in shard.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            tensors[key] = shard.get_tensor(key)
            # Some repositories leave out the first component ("model.", "transformer.").
            name = names.get(key.removesuffix(".weight"))
            if name is not None:
                tensors[key] = apply(tensors[key], updates[name])
                merged.add(name)
        metadata = shard.metadata()
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return merged


def apply(weight: Tensor, update: Update) -> Tensor:
    """W + scale * B A, computed in fp32 and returned in the type of `weight`."""
    delta = update.scale * (update.b.float() @ update.a.float())
    return (weight.to(torch.promote_types(weight.dtype, torch.float32)) + delta).to(weight.dtype)
