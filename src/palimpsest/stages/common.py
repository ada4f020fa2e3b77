"""What the trained stages share: their side folder, their identity, how they end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest.engine.body import Body
from palimpsest.engine.train import LOG
from palimpsest.io.atomic import atomic_path, sha256_of
from palimpsest.io.canonical import fingerprint
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import FILES, Update, write_adapter


def dataset_and_part(ref: str) -> tuple[str, str]:
    """Split ``dataset/part``."""
    dataset, part = ref.split("/")
    return dataset, part


def side_folder(out: Path) -> Path:
    """Folder for checkpoints: beside the artifact, unknown to Snakemake, so it survives a kill."""
    return out.with_name(out.name + ".ckpt")


def run_fingerprint(config: dict[str, Any], manifests: Sequence[Path], body: Body) -> str:
    """Identity of a training run: settings, inputs, number type and threads.

    Threads and type belong to it because a resumed run must end with the same bytes.
    """
    return fingerprint(
        {
            "config": config,
            "inputs": [sha256_of(path) for path in manifests],
            "dtype": str(body.head.weight.dtype),
            "device": body.device.type,
            "threads": torch.get_num_threads(),
        }
    )


def copy_log(log: Path, out: Path) -> None:
    """Put the step log of a training beside what it made, in the folder `out`."""
    with atomic_path(out / LOG) as temporary:
        shutil.copyfile(log, temporary)


def finish(out: Path, log: Path, updates: dict[str, Update], base: Path, **facts: Any) -> None:
    """Write a trained adapter with its log and, last, its manifest; drop the checkpoints."""
    write_adapter(out, updates, str(base))
    copy_log(log, out)
    trained = sum(update.a.numel() + update.b.numel() for update in updates.values())
    write_manifest(out, [*FILES, LOG], trained_parameters=trained, **facts)
    shutil.rmtree(side_folder(out), ignore_errors=True)
