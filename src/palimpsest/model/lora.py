"""LoRA layers on a loaded model (through PEFT)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.errors import UserError, did_you_mean, one_line
from palimpsest.io.artifacts import ADAPTER_WEIGHTS, MANIFEST
from palimpsest.io.manifest import read_manifest
from palimpsest.model.adapter import Update, in_peft, read_files
from palimpsest.model.base import load_base
from palimpsest.model.delta import freeze_deltas
from palimpsest.model.description import deltas_in, manifest_of
from palimpsest.model.names import block_of
from palimpsest.settings.training import Lora

# PEFT 0.21 asks transformers 5 for an attribute by its old name.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def load_subject(base: Path, subject: Path, config: Mapping[str, Any], device: torch.device) -> Any:
    """Load a subject: the base model in `base` with what `subject` adds to it, frozen.

    Args:
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``, or the folder of any ``model.json``.
        config: a slice with ``dtype`` and ``trust_remote_code``.
        device: where it will run.

    Raises:
        UserError: a file is missing or altered.
    """
    model = load_base(base, config["dtype"], device, config["trust_remote_code"])
    return attach_subject(model, subject)


def attach_subject(model: nn.Module, folder: Path) -> Any:
    """Attach what a subject, or any model, adds to its base, frozen.

    Args:
        model: the loaded base model.
        folder: has a ``manifest.json`` (a subject) or a ``model.json``.

    Returns:
        The PEFT model with the adapter ``subject``, or `model` itself if there is no adapter.

    Raises:
        UserError: a file is missing or altered, or does not fit the base.
    """
    manifest = manifest_of(folder)
    if ADAPTER_WEIGHTS in read_manifest(folder, manifest)["files"]:
        model = attach(model, folder, "subject", manifest)
    freeze_deltas(model, deltas_in(folder))
    return model


def attach(model: nn.Module, folder: Path, name: str, manifest: str = MANIFEST) -> Any:
    """Attach the adapter in `folder` as `name`: frozen, and active together with the others."""
    return _attach(model, name, *read_files(folder, manifest), folder / ADAPTER_WEIGHTS)


def attach_updates(
    model: nn.Module, updates: Mapping[str, Update], name: str, base: Path
) -> tuple[Any, dict[str, Tensor]]:
    """Attach updates that are in memory as the adapter `name`: frozen.

    Returns:
        The PEFT model, and the tensor B of each module.

    Raises:
        UserError: the model has no such module.
    """
    attached = _attach(model, name, *in_peft(updates, base), "an update")
    modules = dict(attached.named_modules())
    return attached, {
        module: modules[f"base_model.model.{module}"].lora_B[name].weight for module in updates
    }


def _attach(
    model: nn.Module,
    name: str,
    settings: Mapping[str, Any],
    tensors: dict[str, Tensor],
    source: Path | str,
) -> Any:
    model = _with_adapter(model, name, peft.LoraConfig.from_peft_type(**settings))
    result: Any = peft.set_peft_model_state_dict(model, tensors, adapter_name=name)
    if result.unexpected_keys:
        raise UserError(f"{source} does not fit the model: it has no {result.unexpected_keys[0]}")
    return activate(model)


def _with_adapter(model: nn.Module, name: str, config: Any) -> Any:
    try:
        if isinstance(model, peft.PeftModel):
            model.add_adapter(name, config)
            return model
        config.base_model_name_or_path = None  # PEFT takes the model's and warns of any other
        return peft.get_peft_model(model, config, adapter_name=name)
    except (ValueError, TypeError, NotImplementedError) as error:
        said = one_line(" ".join(str(error).split()), 300)
        raise UserError(
            f"training.lora: PEFT cannot adapt these modules of the model: {said}"
        ) from error


def add_trainable(
    model: nn.Module, lora: Lora, name: str, seed: int, last: int | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Add a fresh adapter: A is random, B is zero, so the model is unchanged at the start.

    Args:
        model: the subject (a plain or a PEFT model); its weights stay frozen.
        lora: rank, scale, targets and first block.
        name: name of the adapter.
        seed: seed of the initialisation.
        last: the block at which passes end: none above it gets an adapter; None: the model's last.

    Returns:
        The PEFT model with all adapters active, and the trained tensors (fp32) by name.

    Raises:
        UserError: a target matches no module, PEFT cannot adapt it, or `first_layer` is beyond the
            last block.
    """
    config = lora_config(model, lora, last)
    torch.manual_seed(seed)
    model = _with_adapter(model, name, config)
    activate(model)
    weights = {}
    for key, parameter in model.named_parameters():
        if f".{name}.weight" in key and "lora_" in key:
            # PEFT may create it in the base's type; trained tensors are at least fp32.
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
            weights[key] = parameter.requires_grad_(True)
    return model, weights


def activate(model: Any) -> Any:
    """Make every adapter active and none trainable (PEFT's `set_adapter` makes them trainable)."""
    model.base_model.set_adapter(list(model.peft_config))
    model.requires_grad_(False)
    return model.eval()


def set_scale(model: Any, adapter: str, factor: float, updates: dict[str, Update]) -> None:
    """Apply `adapter` with its own scale times `factor` (-lambda: the negated task vector)."""
    for name, module in model.named_modules():
        if adapter in getattr(module, "lora_A", {}):
            module.scaling[adapter] = factor * updates[name.removeprefix("base_model.model.")].scale


def every_linear(model: nn.Module) -> list[str]:
    """What the linear modules of a model's blocks are called, sorted: targets of an adapter."""
    return sorted({name.split(".")[-1] for name in _linear(model) if block_of(name) is not None})


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    """Linear modules but the head by name, which begins with a dot; none of an adapter."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        f".{name.removesuffix('.base_layer')}": module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and "lora_" not in name
    }


def lora_config(model: nn.Module, lora: Lora, last: int | None = None) -> peft.LoraConfig:
    """PEFT's configuration for `lora` up to a block, with targets checked against the model.

    The head cannot be a target, because the reference's logits are computed from its hidden states
    through the same head.
    """
    linear = _linear(model)
    found = [name for name in linear if name.endswith(tuple(f".{t}" for t in lora.targets))]
    for target in lora.targets:
        if not any(name.endswith(f".{target}") for name in found):
            known = {name.split(".")[-1] for name in linear}
            raise UserError(
                f"training.lora.targets: no linear module '{target}' in the model"
                f"{did_you_mean(target, known)}"
            )
    blocks = int(model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    if lora.first_layer >= blocks:
        raise UserError(
            f"training.lora.first_layer: {lora.first_layer}, "
            f"but the model has blocks 0 to {blocks - 1}"
        )
    end = blocks if last is None else min(last + 1, blocks)
    if lora.first_layer >= end:
        raise UserError(
            f"training.lora.first_layer: {lora.first_layer}, but the method reads no block above "
            f"{last}, so nothing would be trained; lower it to {last}, or read a higher block"
        )
    some = lora.first_layer > 0 or end < blocks
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        target_modules=list(lora.targets),
        layers_to_transform=list(range(lora.first_layer, end)) if some else None,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in found),
        task_type="CAUSAL_LM",
    )
