"""Frozen weights in 4 or 8 bits (bitsandbytes), for methods that train an adapter.

The matrices of the blocks are quantised while they are loaded; embeddings, norms and the head stay
in the number type. Trained tensors are those of a plain base: fp32.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from palimpsest.errors import UserError

KINDS = ("nf4", "int8")


def split(dtype: str) -> tuple[str | None, str]:
    """The kind of quantisation and the number type in ``nf4:auto``; None and itself in ``auto``."""
    kind, _, plain = dtype.rpartition(":")
    return kind or None, plain


def require(setting: str) -> None:
    """Check that bitsandbytes is there.

    Args:
        setting: the key and value that need it.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{setting} needs bitsandbytes, which is not installed: pip install '.[quantize]' in "
            "the project's environment"
        )


def options(kind: str, number: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained` that quantise.

    Args:
        kind: ``nf4`` (QLoRA, arXiv:2305.14314, with its double quantisation) or ``int8``.
        number: number type of the products.
        device: where the weights go.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    require(f"bases.<base>.quantize: {kind}")
    settings: dict[str, Any] = (
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": number,
        }
        if kind == "nf4"
        # Without its threshold: that takes out whole columns by the largest value of a batch, so a
        # row's result would depend on the rows beside it.
        else {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    )
    made: Any = BitsAndBytesConfig(**settings)
    return {"quantization_config": made, "device_map": {"": device}}


def without_inference_kernels(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking the weights of a model that is not in training mode.

    On CPUs with bfloat16 it takes another kernel then, through which no gradient goes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def is_quantized(model: Any) -> bool:
    """Whether a loaded model has quantised weights."""
    return bool(getattr(model, "is_quantized", False))
