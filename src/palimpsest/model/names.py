"""Names of tensors and modules: those of the plain model, without what PEFT adds."""

from __future__ import annotations

import re
from collections.abc import Collection


def base_name(name: str) -> str:
    """A module's name in the plain base model."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")


def lora_name(name: str) -> str:
    """A LoRA tensor's name: ``model.layers.0.mlp.up_proj.lora_A.weight``.

    KnowUnDo's names (with ``base_model.model.`` and ``.default``) give the same.
    """
    plain = re.sub(r"(lora_[AB])\.\w+\.weight$", r"\1.weight", name)
    return plain.removeprefix("base_model.model.")


def block_of(name: str) -> int | None:
    """Index of the block that a tensor or module belongs to; None outside the blocks."""
    match = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}")
    return int(match[1]) if match else None


def first_block(names: Collection[str]) -> int:
    """Lowest block of these tensors; 0 if one of them is outside the blocks."""
    return min((block_of(name) or 0 for name in names), default=0)
