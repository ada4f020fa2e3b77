"""LoRA layers on a loaded model (through PEFT)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.manifest import read_manifest
from palimpsest.model.adapter import WEIGHTS, Update, read_adapter
from palimpsest.settings.training import Lora

# PEFT 0.21 asks transformers 5 for an attribute by its old name.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def attach_subject(model: nn.Module, folder: Path) -> Any:
    """Attach the frozen adapter ``subject`` if there is one.

    Returns:
        The PEFT model, or `model` itself when the subject is the bare base.
    """
    if WEIGHTS not in read_manifest(folder)["files"]:
        return model
    return attach(model, folder, "subject")


def attach(model: nn.Module, folder: Path, name: str, manifest: str = "manifest.json") -> Any:
    """Attach the adapter in `folder` under `name`, frozen and active beside those there are."""
    read_adapter(folder, manifest)  # verifies the files
    config = peft.LoraConfig.from_pretrained(str(folder))
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
    else:
        model = peft.get_peft_model(model, config, adapter_name=name)
    found: Any = peft.set_peft_model_state_dict(
        model, load_file(folder / WEIGHTS), adapter_name=name
    )
    if found.unexpected_keys:
        raise UserError(
            f"{folder / WEIGHTS} does not fit the model: it has no {found.unexpected_keys[0]}"
        )
    return activate(model)


def add_trainable(
    model: nn.Module, lora: Lora, name: str, seed: int
) -> tuple[Any, dict[str, Tensor]]:
    """Add a fresh adapter: A random from `seed`, B zero, so the model is unchanged at the start.

    Args:
        model: the subject (a plain or a PEFT model); its weights stay frozen.
        lora: rank, scale, targets and first block.
        name: name of the adapter.
        seed: seed of the initialisation.

    Returns:
        The PEFT model with all adapters active, and the trained tensors (fp32) by name.

    Raises:
        UserError: a target matches no module, or `first_layer` is beyond the last block.
    """
    config = lora_config(model, lora)
    torch.manual_seed(seed)
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
    else:
        model = peft.get_peft_model(model, config, adapter_name=name)
    activate(model)
    weights = {}
    for key, parameter in model.named_parameters():
        if f".{name}.weight" in key and "lora_" in key:
            # An attached adapter may be in the base's type; what is trained is fp32 or wider.
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


def lora_config(model: nn.Module, lora: Lora) -> peft.LoraConfig:
    """PEFT's configuration for `lora`, its targets checked against the model.

    The head is no target: logits of the reference follow from hidden states through it.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {
        name.removesuffix(".base_layer").split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
    }
    for target in lora.targets:
        if target not in linear:
            raise UserError(
                f"training.lora.targets: no linear module '{target}' in the model"
                f"{did_you_mean(target, linear)}"
            )
    blocks = int(model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    if lora.first_layer >= blocks:
        raise UserError(
            f"training.lora.first_layer: {lora.first_layer}, "
            f"but the model has blocks 0 to {blocks - 1}"
        )
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        target_modules=list(lora.targets),
        layers_to_transform=list(range(lora.first_layer, blocks)) if lora.first_layer else None,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
