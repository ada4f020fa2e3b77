"""Resumable checkpoints in a side folder: safetensors and json, never pickle.

A checkpoint belongs to a fingerprint of settings and inputs. With another fingerprint, or if it
is damaged, training starts clean.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.io.atomic import atomic_folder, sha256_of

STATE = "state.safetensors"


class Checkpoint:
    """The last good state of a training run."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Keep the state in ``folder/last`` for the run with this `fingerprint`."""
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, step: int, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Save after `step` optimiser steps; an earlier checkpoint is replaced atomically.

        Raises:
            UserError: the disk is full or not writable (the earlier checkpoint stays).
        """
        tensors = {f"weight.{name}": tensor.detach() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            for key, value in optimizer.state[tensor].items():
                tensors[f"optimizer.{name}.{key}"] = value
        with atomic_folder(self.folder / "last") as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / STATE)
            facts = {
                "fingerprint": self.fingerprint,
                "step": step,
                "sha256": sha256_of(temporary / STATE),
            }
            (temporary / "checkpoint.json").write_text(json.dumps(facts), encoding="utf-8")

    def load(self, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Restore weights and optimiser; return the number of steps done (0: nothing to resume)."""
        last = self.folder / "last"
        if not last.exists():
            return 0
        try:
            facts = json.loads((last / "checkpoint.json").read_text(encoding="utf-8"))
            if facts["fingerprint"] != self.fingerprint:
                return self._start_clean("settings or inputs changed")
            if sha256_of(last / STATE) != facts["sha256"]:
                return self._start_clean("the checkpoint is damaged")
            tensors = load_file(last / STATE)
        except (OSError, ValueError, KeyError, SafetensorError):
            return self._start_clean("the checkpoint is damaged")
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(tensors[f"weight.{name}"])
                prefix = f"optimizer.{name}."
                optimizer.state[tensor] = {
                    key.removeprefix(prefix): value.to(
                        tensor.device if value.dim() else "cpu", copy=True
                    )
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
        print(f"resumed after step {facts['step']}", file=sys.stderr, flush=True)
        return int(facts["step"])

    def remove(self) -> None:
        """Delete the side folder (the run is complete)."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_clean(self, why: str) -> int:
        print(f"starting from step 0: {why}", file=sys.stderr, flush=True)
        self.remove()
        return 0
