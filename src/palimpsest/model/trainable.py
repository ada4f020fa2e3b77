"""The tensors that a method trains: a fresh adapter, the subject's adapter, or base tensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.artifacts import ADAPTER_WEIGHTS
from palimpsest.io.manifest import read_manifest
from palimpsest.model.adapter import Update, add, updates_of
from palimpsest.model.delta import add_deltas
from palimpsest.model.description import manifest_of
from palimpsest.model.lora import add_trainable, attach_subject
from palimpsest.model.names import first_block, lora_name
from palimpsest.settings.method import Start
from palimpsest.settings.training import Training

RESIDUAL = "residual"
"""A frozen adapter that cancels the first values of a trained one."""


@dataclass(frozen=True)
class Trainable:
    """A model with some trainable tensors.

    Attributes:
        model: what training starts from, with a fresh adapter or differences if the method adds
            them.
        weights: trained tensors by name.
        adapter: name of the trained adapter, None when base tensors are trained.
    """

    model: Any
    weights: dict[str, Tensor]
    adapter: str | None

    @property
    def network(self) -> nn.Module:
        """The `transformers` model inside PEFT's wrapper."""
        network: nn.Module = (
            self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        )
        return network

    def added(self) -> dict[str, Update]:
        """What a fresh adapter adds to what training started from, less its first values."""
        return add(updates_of(self.model, "unlearned"), updates_of(self.model, RESIDUAL), 1.0)

    @property
    def first_block(self) -> int:
        """Lowest block with a trained tensor; 0 if one is outside the blocks."""
        return first_block(self.weights)


def make_trainable(
    base: nn.Module,
    subject: Path,
    start: Start,
    training: Training,
    seed: int,
    region: Collection[str] | None = None,
    last: int | None = None,
) -> Trainable:
    """Prepare the subject, or any other model, for training.

    All that it has is frozen, but for its own adapter with start subject.

    Args:
        base: the loaded base model.
        subject: ``results/<model>/subject``, or the folder of any ``model.json``.
        start: which tensors are trained.
        training: the adapter (fresh) or the names of base tensors (weights).
        seed: seed of a fresh adapter.
        region: names of the subject's tensors that may change (start subject); None: all.
        last: the block at which passes end; a fresh adapter ends there, too.

    Raises:
        UserError: nothing matches, or there is no adapter to train.
    """
    parts = read_manifest(subject, manifest_of(subject))["files"]
    if start == "subject" and ADAPTER_WEIGHTS not in parts:
        raise UserError(
            f"start: subject trains the adapter that is there, but {subject} has none; a subject "
            "has none if its scenario has no pretrain. Use start: fresh"
        )
    model = attach_subject(base, subject)
    if start == "fresh":
        model, weights = add_trainable(model, training.lora, "unlearned", seed, last)
        return Trainable(model, weights, "unlearned")
    if start == "weights":
        return Trainable(model, add_deltas(model, training.parameters), None)
    return Trainable(model, subject_tensors(model, region), "subject")


def subject_tensors(model: nn.Module, region: Collection[str] | None = None) -> dict[str, Tensor]:
    """Make the subject's LoRA tensors, or those in `region`, trainable in fp32.

    Raises:
        UserError: the region names a tensor that the adapter does not have, or none at all.
    """
    tensors: dict[str, Tensor] = {
        lora_name(name): parameter
        for name, parameter in model.named_parameters()
        if ".subject.weight" in name and "lora_" in name
    }
    if region is not None:
        chosen = {lora_name(name) for name in region}
        if not chosen:
            raise UserError("the region is empty: no tensor would be trained")
        for name in sorted(chosen - set(tensors)):
            raise UserError(
                f"the region names {name}, which the subject's adapter does not have"
                f"{did_you_mean(name, tensors)}"
            )
        tensors = {name: parameter for name, parameter in tensors.items() if name in chosen}
    for parameter in tensors.values():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return tensors
