"""Resumable checkpoints in a side folder: safetensors and json, never pickle.

A checkpoint has the fingerprint of settings and inputs. If the fingerprint differs or the
checkpoint is damaged, training starts from step 0.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.atomic import sha256_of
from palimpsest.io.digest import SHA256
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tensors import Spec, write_tensors

FACTS = "checkpoint.json"
"""Name and hash of the state file; replacing this small file commits a checkpoint."""

CPU = torch.device("cpu")

NOTHING: Mapping[str, Tensor] = MappingProxyType({})
"""The further state of a training that has none."""


class Checkpoint:
    """The last good state of a training run."""

    def __init__(self, folder: Path, fingerprint: str, log: Path) -> None:
        """Keep the state of the run with this `fingerprint` in `folder`.

        The step log at `log` is part of the state, because it becomes part of the result.
        """
        self.folder, self.fingerprint, self.log = folder, fingerprint, log

    def save(
        self,
        step: int,
        weights: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        """Save after `step` optimiser steps; then delete the earlier checkpoint.

        Args:
            step: optimiser steps done.
            weights: the trained tensors.
            optimizer: their optimiser.
            state: what else training carries from step to step.

        Raises:
            UserError: the disk is full or not writable (the earlier checkpoint stays).
        """
        tensors = {f"weight.{name}": tensor.detach() for name, tensor in weights.items()}
        tensors |= {f"state.{name}": tensor for name, tensor in state.items()}
        for name, tensor in weights.items():
            for key, value in optimizer.state[tensor].items():
                tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        file = self.folder / f"step-{step}.safetensors"
        # In blocks: of whole weights, the state is larger than the main memory of many jobs.
        specs = {name: Spec(value.dtype, tuple(value.shape)) for name, value in tensors.items()}
        digests = write_tensors(
            file,
            specs,
            lambda name, rows: tensors[name][rows] if specs[name].shape else tensors[name],
        )
        facts = {"fingerprint": self.fingerprint, "step": step, "state": file.name}
        facts |= {"groups": [_numbers(group) for group in optimizer.param_groups]}
        steps = self.log.read_bytes()
        facts["log"] = {"bytes": len(steps), "sha256": hashlib.sha256(steps).hexdigest()}
        write_document(self.folder / FACTS, {**facts, "sha256": digests[SHA256]})
        for earlier in self.folder.glob("step-*.safetensors"):
            if earlier != file:
                earlier.unlink()

    def load(
        self,
        weights: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Tensor] = NOTHING,
    ) -> int:
        """Restore what `save` had; return the number of steps done (0: nothing to resume)."""
        if not (self.folder / FACTS).exists():
            return 0
        try:
            facts = read_document(self.folder / FACTS)
            if facts["fingerprint"] != self.fingerprint:
                return self._start_clean("settings or inputs changed")
            file = self.folder / facts["state"]
            steps = self.log.read_bytes()[: facts["log"]["bytes"]]
            digests = (sha256_of(file), hashlib.sha256(steps).hexdigest())
            if digests != (facts["sha256"], facts["log"]["sha256"]):
                return self._start_clean("the checkpoint is damaged")
            groups = list(zip(optimizer.param_groups, facts["groups"], strict=True))
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                _restore(tensors, weights, optimizer, state)
        except (UserError, OSError, ValueError, KeyError, TypeError, SafetensorError):
            return self._start_clean("the checkpoint is damaged")
        for group, numbers in groups:
            group.update(numbers)
        print(f"resumed after step {facts['step']}", file=sys.stderr, flush=True)
        return int(facts["step"])

    def _start_clean(self, why: str) -> int:
        print(f"starting from step 0: {why}", file=sys.stderr, flush=True)
        # The folder itself stays: it may be private.
        (self.folder / FACTS).unlink(missing_ok=True)
        for state in self.folder.glob("step-*.safetensors"):
            state.unlink()
        return 0


def _restore(
    tensors: Any,
    weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Tensor],
) -> None:
    """Copy a state file's tensors, one at a time, to where the weights are.

    Raises:
        KeyError: a weight or a tensor of the further state is missing; nothing was copied.
    """
    keys: dict[str, list[str]] = {}
    stored = set(tensors.keys())
    needed = [f"weight.{name}" for name in weights] + [f"state.{name}" for name in state]
    if missing := [name for name in needed if name not in stored]:
        raise KeyError(missing[0])
    for name, tensor in state.items():
        tensor.copy_(tensors.get_tensor(f"state.{name}"))
    for name in sorted(stored):
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            weight, _, key = rest.rpartition(".")
            keys.setdefault(weight, []).append(key)
    # The count of steps stands where the optimiser's kernel reads it.
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, tensor in weights.items():
        tensor.copy_(tensors.get_tensor(f"weight.{name}"))
        moments = {key: tensors.get_tensor(f"optimizer.{name}.{key}") for key in keys.get(name, [])}
        optimizer.state[tensor] = {
            key: _placed(value, tensor.device if value.dim() or fused else CPU)
            for key, value in moments.items()
        }


def _placed(value: Tensor, device: torch.device) -> Tensor | int:
    """A copy of what an optimiser keeps; bitsandbytes counts steps in an int, torch in fp32."""
    if value.dtype == torch.int64 and not value.dim():
        return int(value)
    return value.to(device, copy=True)


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    # Settings, and what an optimiser counts (schedule-free: steps and sums).
    return {k: v for k, v in group.items() if isinstance(v, bool | int | float)}
