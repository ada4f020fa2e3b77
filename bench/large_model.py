"""A sharded 1 GB model with random weights, and the files that its training would write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from palimpsest.io.artifacts import DELTA_WEIGHTS
from palimpsest.io.atomic import write_json
from palimpsest.io.manifest import write_manifest
from palimpsest.pipeline.stages import Negate
from palimpsest.stages.negate import negate

WIDTH, INNER, VOCABULARY, BLOCKS = 1024, 2752, 32000, 17
SHARDS = 4


@dataclass(frozen=True)
class Folders:
    """Folders and sizes of the model.

    Attributes:
        base: the original, in shards, as the stage ``download_model`` writes it.
        trained: the same after training, in shards.
        acquired: its difference from the original, as the stage ``acquire`` writes it.
        negated: the unlearned model, as the stage ``negate`` writes it.
        subject: a subject without an adapter.
        largest: bytes of the largest tensor.
        total: bytes of the whole model.
    """

    base: Path
    trained: Path
    acquired: Path
    negated: Path
    subject: Path
    largest: int
    total: int


def shapes(blocks: int = BLOCKS, width: int = WIDTH) -> dict[str, tuple[int, int]]:
    """Name -> shape of every tensor of a Llama."""
    inner, sizes = width * INNER // WIDTH, {"model.embed_tokens.weight": (VOCABULARY, width)}
    for i in range(blocks):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            sizes[f"model.layers.{i}.self_attn.{name}.weight"] = (width, width)
        for name in ("gate_proj", "up_proj"):
            sizes[f"model.layers.{i}.mlp.{name}.weight"] = (inner, width)
        sizes[f"model.layers.{i}.mlp.down_proj.weight"] = (width, inner)
    return sizes


def large_model(folder: Path, blocks: int = BLOCKS, width: int = WIDTH) -> Folders:
    """Write the model into `folder` if it is missing."""
    bytes_of = {name: 4 * rows * columns for name, (rows, columns) in shapes(blocks, width).items()}
    folders = Folders(
        *(folder / name for name in ("base", "trained", "acquired", "negated", "subject")),
        largest=max(bytes_of.values()),
        total=sum(bytes_of.values()),
    )
    if not (folder / "complete").exists():
        _write(folders, blocks, width)
        (folder / "complete").touch()
    return folders


def _write(folders: Folders, blocks: int, width: int) -> None:
    for path in (folders.base, folders.trained, folders.acquired, folders.subject):
        path.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    differences: dict[str, Tensor] = {}
    random = torch.Generator().manual_seed(0)
    for file, names in _shards(blocks, width):
        before = {name: 0.02 * torch.randn(shape, generator=random) for name, shape in names}
        change = {name: 1e-3 * torch.randn(shape, generator=random) for name, shape in names}
        save_file(before, folders.base / file, metadata={"format": "pt"})
        save_file({n: before[n] + change[n] for n in before}, folders.trained / file)
        differences |= change
        files |= dict.fromkeys(before, file)
    save_file(differences, folders.acquired / DELTA_WEIGHTS, metadata={"format": "pt"})
    write_json(folders.base / "config.json", {"tie_word_embeddings": False})
    index = "model.safetensors.index.json"
    write_json(
        folders.base / index, {"metadata": {"total_size": folders.total}, "weight_map": files}
    )
    write_manifest(folders.base, sorted({*files.values(), index, "config.json"}))
    trained = sum(tensor.numel() for tensor in differences.values())
    write_manifest(folders.acquired, [DELTA_WEIGHTS], trained_parameters=trained)
    write_manifest(folders.subject, [])
    negate_large(folders, folders.negated)


def negate_large(folders: Folders, out: Path) -> None:
    """Write the base minus the acquired difference, as the stage ``negate`` does."""
    negate(
        Negate(
            config={"scale": 1.0},
            base=folders.base,
            subject=folders.subject,
            acquired=folders.acquired,
            out=out,
        )
    )


def _shards(blocks: int, width: int) -> Iterator[tuple[str, list[tuple[str, tuple[int, int]]]]]:
    tensors = list(shapes(blocks, width).items())
    for i in range(SHARDS):
        part = tensors[i * len(tensors) // SHARDS : (i + 1) * len(tensors) // SHARDS]
        yield f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors", part
