"""What a method trains: a fresh adapter, the subject's own, or tensors of the base."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.manifest import read_manifest
from palimpsest.model.adapter import WEIGHTS
from palimpsest.model.delta import add_deltas
from palimpsest.model.lora import add_trainable, attach_subject
from palimpsest.model.names import first_block, lora_name
from palimpsest.settings.method import Start
from palimpsest.settings.training import Training


@dataclass(frozen=True)
class Trainable:
    """A model with some trainable tensors.

    Attributes:
        model: the subject with what was added to it.
        weights: trained tensors by name.
        adapter: name of the trained adapter, None when base tensors are trained.
    """

    model: Any
    weights: dict[str, Tensor]
    adapter: str | None

    @property
    def network(self) -> nn.Module:
        """The model that computes: PEFT's wrapper taken off."""
        found: nn.Module = (
            self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        )
        return found

    @property
    def first_block(self) -> int:
        """Lowest block with a trained tensor; 0 if one stands outside the blocks."""
        return first_block(self.weights)


def make_trainable(
    base: nn.Module,
    subject: Path,
    start: Start,
    training: Training,
    seed: int,
    region: Collection[str] | None = None,
) -> Trainable:
    """Prepare the subject for training.

    Args:
        base: the loaded base model.
        subject: ``results/<model>/subject``.
        start: what is trained.
        training: the adapter (fresh) or the names of base tensors (weights).
        seed: seed of a fresh adapter.
        region: names of the subject's tensors that may change (start subject); None: all.

    Raises:
        UserError: nothing matches, or the subject has no adapter to train.
    """
    if start == "subject" and WEIGHTS not in read_manifest(subject)["files"]:
        raise UserError(
            f"start: subject trains the subject's own adapter, but {subject} has none: its "
            "scenario has no pretrain. Use start: fresh"
        )
    model = attach_subject(base, subject)
    if start == "fresh":
        model, weights = add_trainable(model, training.lora, "unlearned", seed)
        return Trainable(model, weights, "unlearned")
    if start == "weights":
        return Trainable(model, add_deltas(model, training.parameters), None)
    return Trainable(model, subject_tensors(model, region), "subject")


def subject_tensors(model: nn.Module, region: Collection[str] | None = None) -> dict[str, Tensor]:
    """The subject's LoRA tensors, trainable, in fp32; with a region those in it alone.

    Raises:
        UserError: the region names a tensor that the adapter does not have, or none at all.
    """
    every = {
        lora_name(name): parameter
        for name, parameter in model.named_parameters()
        if ".subject.weight" in name and "lora_" in name
    }
    if region is not None:
        wanted = {lora_name(name) for name in region}
        if not wanted:
            raise UserError("the region is empty: no tensor would be trained")
        for name in sorted(wanted - set(every)):
            raise UserError(
                f"the region names {name}, which the subject's adapter does not have"
                f"{did_you_mean(name, every)}"
            )
        every = {name: parameter for name, parameter in every.items() if name in wanted}
    for parameter in every.values():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return dict(every)
