"""Shared by the stages that train: side folder, identity of a run, output."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.engine import ranks
from palimpsest.engine.body import Body
from palimpsest.errors import UserError
from palimpsest.io.artifacts import DELTA_WEIGHTS, TRAINING_LOG
from palimpsest.io.atomic import atomic_path, sha256_of
from palimpsest.io.canonical import fingerprint
from palimpsest.io.manifest import write_manifest
from palimpsest.model import delta
from palimpsest.model.adapter import FILES, Update, write_adapter
from palimpsest.model.base import load_base


def part_of(sets: Mapping[str, str | None], name: str) -> str:
    """The ``dataset/part`` of a set.

    Raises:
        UserError: the scenario has no such set.
    """
    ref = sets[name]
    if ref is None:
        raise UserError(f"this method uses {name} rows, and the scenario has no '{name}'")
    return ref


def side_folder(out: Path) -> Path:
    """Folder for checkpoints beside the artifact; Snakemake does not delete it after a kill."""
    return out.with_name(out.name + ".ckpt")


def run_fingerprint(config: dict[str, Any], manifests: Sequence[Path], body: Body) -> str:
    """Identity of a training run: settings, inputs, number type, threads and processes.

    Threads (of a CPU) and processes count, since a resumed run must end with the same bytes. On a
    GPU threads change nothing.
    """
    group = ranks.current()
    of_processes = {"processes": [group.count, group.sharded]} if group.count > 1 else {}
    return fingerprint(
        {
            "config": config,
            "inputs": [sha256_of(path) for path in manifests],
            "dtype": str(body.head.weight.dtype),
            "device": body.device.type,
            **({"threads": torch.get_num_threads()} if body.device.type == "cpu" else {}),
            **of_processes,
        }
    )


def load_to_train(
    config: dict[str, Any], base: Path, device: torch.device, blocks: int | None = None
) -> nn.Module:
    """The base model for training; in main memory if processes are to share its weights.

    Args:
        config: a slice with ``dtype`` and ``trust_remote_code``.
        base: ``resources/models/<base>``.
        device: where it will run.
        blocks: as many of its first blocks as passes run; None: all.
    """
    sharded = ranks.current().sharded
    return load_base(
        base, config["dtype"], device, config["trust_remote_code"], not sharded, blocks
    )


def copy_log(log: Path, out: Path) -> None:
    """Copy the step log of a training into the folder `out` of its result."""
    with atomic_path(out / TRAINING_LOG) as temporary:
        shutil.copyfile(log, temporary)


def finish(out: Path, log: Path, updates: dict[str, Update], base: Path, **facts: Any) -> None:
    """Write a trained adapter with its log and, last, its manifest; drop the checkpoints."""
    write_adapter(out, updates, base)
    parameters = sum(update.a.numel() + update.b.numel() for update in updates.values())
    _finish(out, log, FILES, parameters, facts)


def finish_deltas(out: Path, log: Path, deltas: Mapping[str, Tensor], **facts: Any) -> None:
    """Do the same for trained differences of base tensors."""
    delta.write_deltas(out, deltas)
    _finish(out, log, [DELTA_WEIGHTS], sum(map(Tensor.numel, deltas.values())), facts)


def _finish(
    out: Path, log: Path, files: Sequence[str], parameters: int, facts: Mapping[str, Any]
) -> None:
    for other in {*FILES, DELTA_WEIGHTS} - set(files):
        (out / other).unlink(missing_ok=True)
    copy_log(log, out)
    write_manifest(out, [*files, TRAINING_LOG], trained_parameters=parameters, **facts)
    shutil.rmtree(side_folder(out), ignore_errors=True)
